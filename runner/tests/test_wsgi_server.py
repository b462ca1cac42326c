"""``--wsgi``: gunicorn in the same frame."""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from eyewall.cli import main
from support.net import UnixConnection, free_port
from support.runner import (
    Eyewall,
    Posters,
    ask_admin,
    command,
    environment,
    receive_answer,
)
from support.waiting import until

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def refused(directory: Path, *arguments: str) -> str:
    """Run the command, which must exit with 2; return its stderr."""
    result = subprocess.run(
        command("--wsgi", "--port", str(free_port()), *arguments),
        check=False, env=environment(), cwd=directory, capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert result.returncode == 2, result
    return result.stderr


def test_a_process(start: Start, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text('{"SECRET": "hunter2"}')
    settings.chmod(0o600)
    options = ("--settings", str(settings), "--release", "1.2", "--generation", "g", "--open-files", "100")
    server = start(SAMPLE, "--wsgi", "--backlog", "7", "--watchdog-timeout", "0", *options).ready()
    master = server.process.pid
    worker = server.get(headers={"X-Real-Ip": "192.0.2.1", "X-Forwarded-Proto": "https"})
    assert (worker["ip"], worker["protocol"]) == ("192.0.2.1", "https")
    for pid in (master, worker["pid"]):
        assert b"hunter2" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    seen = server.get("/environment")
    assert (seen["SECRET"], seen["RELEASE"], seen["PORT"]) == ("hunter2", "1.2", str(server.port))

    with server.connect() as connection:
        connection.sendall(GET)
        receive_answer(connection)
        # A request is counted when its answer is out, and a connection is gone a moment after its client.
        wanted = {"requests": 3, "connections": 1}.items()
        status = until(lambda: now if wanted <= (now := server.status()).items() else None, "three requests")
    assert status.items() >= {
        "state": "ready", "release": "1.2", "generation": "g", "port": server.port, "pid": master, "connections": 1,
        "websockets": 0, "requests": 3, "requests_in_flight": 0,
    }.items()  # fmt: skip
    assert status["uptime_seconds"] > 0
    assert status["open_files"] > 3
    assert server.admin.stat().st_mode & 0o777 == 0o600
    assert ask_admin(server.admin, "/health") == (200, "ok\n")
    with server.connect() as connection:
        connection.sendall(b"GARBAGE\r\n\r\n")
        assert " 400 " in receive_answer(connection)[0]
    metrics = ask_admin(server.admin, "/metrics")[1]
    assert "eyewall_malformed_heads_total 1.0" in metrics
    assert 'eyewall_requests_total{code="200",method="GET"} 3.0' in metrics
    assert f'eyewall_info{{generation="g",port="{server.port}",release="1.2"}} 1.0' in metrics

    # A new worker; nothing that waits for it is lost, at the port or at the admin path.
    os.kill(worker["pid"], signal.SIGKILL)
    assert server.get()["pid"] != worker["pid"]
    until(lambda: server.status()["requests"] == 1, "a new count")
    assert server.status().items() >= {"state": "ready", "pid": master}.items()
    # SIGUSR1 reaches the worker, which goes on.
    server.send(signal.SIGUSR1)
    server.logged("most recent call first")
    server.get()

    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert not server.admin.exists()
    assert f" ERROR {server.port} - gunicorn.error: Worker (pid:{worker['pid']}) was sent SIGKILL!" in server.log


@pytest.mark.slow
def test_drain(start: Start) -> None:
    server = start(SAMPLE, "--wsgi", "--drain-timeout", "10").ready()
    with ThreadPoolExecutor() as pool, server.connect() as idle:
        idle.sendall(GET)
        receive_answer(idle)
        client = server.client()
        client.request("GET", "/slow?seconds=2.5")  # longer than gunicorn would keep the idle one
        answer = pool.submit(client.getresponse)
        server.logged("slow begins")
        server.terminate()
        status, body = ask_admin(server.admin, "/ready")
        assert (status, json.loads(body)["state"]) == (503, "draining")
        with pytest.raises(ConnectionRefusedError):
            until(lambda: server.connect().close(), "a closed port")
        response = answer.result()
        # It began before, so gunicorn keeps its connection; that ends with the next answer, as the idle one.
        assert (response.status, response.getheader("Connection")) == (200, "keep-alive")
        response.read()
        assert client.sock is not None
        for kept in (client.sock, idle):
            kept.sendall(GET)
            assert "Connection: close" in receive_answer(kept)[0]
            kept.close()
    assert server.wait() == 0


@pytest.mark.slow
def test_the_drain_ends_when_time_is_up(start: Start) -> None:
    server = start(SAMPLE, "--wsgi", "--drain-timeout", "0").ready()
    client = server.client()
    client.request("GET", "/slow?seconds=60")
    server.logged("slow begins")
    server.terminate()
    assert server.wait(8) == 0
    assert "drain ends: time is up, 1 connections cut" in server.log
    client.close()


@pytest.mark.slow
def test_handover(start: Start) -> None:
    old = start(SAMPLE, "--wsgi").ready()
    with Posters(old.port) as posters:
        new = start(SAMPLE, "--wsgi", port=old.port).ready()
        first = set(posters.answered)
        old.terminate()
        assert old.wait() == 0
        count = len(posters.answered)
        until(lambda: len(posters.answered) > count + 50, "answers of the new process")
        assert new.status()["pid"] == new.process.pid
    assert posters.lost == []
    assert len(first | set(posters.answered)) == 2


@pytest.mark.slow
def test_a_worker_whose_master_was_killed_leaves(start: Start) -> None:
    server = start(SAMPLE, "--wsgi").ready()
    client = server.client()
    client.request("GET", "/slow?seconds=1.5")
    server.logged("slow begins")
    server.send(signal.SIGKILL)
    server.logged("drain starts (gunicorn's master is gone)")
    with pytest.raises(ConnectionRefusedError):
        until(lambda: server.connect().close(), "a closed port")
    assert client.getresponse().status == 200
    client.close()
    server.logged("drain ends")


@pytest.mark.slow
def test_a_worker_whose_loop_hangs_is_replaced(start: Start) -> None:
    server = start(SAMPLE, "--wsgi", "--watchdog-timeout", "1").ready()
    worker = server.get()["pid"]
    with server.connect() as connection:
        connection.sendall(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
        server.logged("Timeout (0:00:01)")
        assert server.get()["pid"] != worker
    assert "eyewall_sample.py" in server.log


def test_unix_address(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "proof.sock"
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = start(SAMPLE, "--wsgi", "--address", f"unix:{path}", port=port).ready()
    assert path.stat().st_mode & 0o777 == 0o600
    client = UnixConnection(path)
    client.request("GET", "/")
    assert json.loads(client.getresponse().read())["ip"] == "0.0.0.0"  # noqa: S104 - as Tornado names such a peer
    client.close()
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert [one.suffix for one in tmp_path.iterdir()] == [".log"]


def test_an_application_that_cannot_be_loaded_disturbs_nobody(start: Start, tmp_path: Path) -> None:
    server = start(SAMPLE, "--wsgi").ready()
    before = server.admin.stat().st_ino
    text = refused(tmp_path, "--port", str(server.port), "--admin", str(server.admin), "eyewall_sample:raises")
    assert "\neyewall: eyewall_sample:raises: the factory raised RuntimeError: no database here\n" in text
    assert "Traceback" in text
    assert server.admin.stat().st_ino == before
    assert server.status()["requests"] == 0
    server.get()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--processes", "2", SAMPLE], "--wsgi and --processes 2"),
        (["--threads", "0", SAMPLE], "got '0'; expected a number, 1 or more"),
        (["program.py"], "--wsgi is for a factory; program.py has a server of its own"),
        (["-m", "package"], "--wsgi is for a factory"),
    ],
)
def test_refused(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    assert main(["--wsgi", "--port", "8000", *arguments]) == 2
    text = capsys.readouterr().err
    assert text.startswith("eyewall: ")
    assert text.count("\n") == 1
    assert words in text


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("raise ImportError", "got no gunicorn; expected gunicorn 27"),
        ("__version__ = '23.0.0'; version_info = (23, 0, 0)", "got gunicorn 23.0.0; expected 27 or later"),
    ],
)
def test_gunicorn_is_needed(tmp_path: Path, module: str, words: str) -> None:
    (tmp_path / "gunicorn.py").write_text(module)
    assert words in refused(tmp_path, SAMPLE)


def test_a_foreign_program_on_the_port(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        assert "taken by another program" in refused(tmp_path, "--port", str(other.getsockname()[1]), SAMPLE)


@pytest.mark.slow
def test_one_thread_and_a_peer_that_is_not_trusted(start: Start) -> None:
    server = start(SAMPLE, "--wsgi", "--threads", "1", "--trusted", "192.0.2.7").ready()
    seen = server.get(headers={"X-Real-Ip": "192.0.2.1", "X-Forwarded-Proto": "https", "X-Forwarded-Ssl": "on"})
    assert (seen["ip"], seen["protocol"]) == ("127.0.0.1", "http")
    # The thread is also what notices that a client is gone.
    until(lambda: server.status()["connections"] == 0, "the end of the first connection")
    clients = [server.client(), server.client()]
    for client in clients:
        client.request("GET", "/slow?seconds=1")
    server.logged("slow begins")
    until(lambda: server.status()["connections"] == 2, "both connections")
    assert server.status()["requests_in_flight"] == 1
    for client in clients:
        assert client.getresponse().read()
        client.close()
