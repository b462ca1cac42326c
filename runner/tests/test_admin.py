"""What the admin socket says, and what becomes of it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from eyewall.admin import Status
from eyewall.server import HEAD
from prometheus_client.parser import text_string_to_metric_families
from support.net import free_port
from support.proc import is_alive
from support.runner import PARENT, Eyewall, WebSocket, ask_admin, command, environment
from support.waiting import until

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"


def metrics(server: Eyewall) -> dict[tuple[str, ...], float]:
    """Scrape; return the samples by name and label values."""
    status, text = ask_admin(server.admin, "/metrics")
    assert status == 200
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_endpoints(start: Start) -> None:
    server = start(SAMPLE, "--release", "1.4.2", "--generation", "board-1.4.2-3fa9c1").ready()
    assert server.admin.stat().st_mode & 0o777 == 0o600
    assert ask_admin(server.admin, "/health") == (200, "ok\n")
    status, body = ask_admin(server.admin, "/ready")
    assert status == 200
    assert json.loads(body)["state"] == "ready"
    assert json.loads(body)["generation"] == "board-1.4.2-3fa9c1"
    assert json.loads(ask_admin(server.admin, "/release")[1]) == {
        "release": "1.4.2",
        "generation": "board-1.4.2-3fa9c1",
    }
    assert ask_admin(server.admin, "/nothing")[0] == 404


def test_status(server: Eyewall) -> None:
    server.get()
    server.get()
    with server.connect():
        until(lambda: server.status()["connections"] == 1)
        status = server.status()
    assert status["pid"] == server.process.pid
    assert status["port"] == server.port
    assert status["address"] == "127.0.0.1"
    assert status["requests"] == 2
    assert status["requests_in_flight"] == 0
    assert status["websockets"] == 0
    assert abs(status["started"] + status["uptime_seconds"] - time.time()) < 5
    assert 5 < status["open_files"] < 100
    assert status["open_files_limit"] > 100
    until(lambda: server.status()["connections"] == 0)


def test_a_request_in_flight_is_counted_once(server: Eyewall) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /slow?seconds=0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
        until(lambda: server.status()["requests_in_flight"] == 1)
        assert server.status()["requests"] == 0
        until(lambda: server.status()["requests_in_flight"] == 0)
        assert server.status()["requests"] == 1


def test_metrics(start: Start) -> None:
    server = start(SAMPLE, "--release", "7", "--generation", "g").ready()
    server.get()
    server.get()
    client = server.client()
    client.request("BREW", "/nothing")
    client.getresponse().read()
    client.close()
    connection = server.connect()
    connection.sendall(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
    server.logged("slow begins")
    connection.close()
    websocket = WebSocket(server).handshake()
    until(lambda: metrics(server)["eyewall_websockets",] == 1)
    samples = metrics(server)
    assert samples["eyewall_info", "g", str(server.port), "7"] == 1
    assert samples["eyewall_requests_total", "200", "GET"] == 2
    assert samples["eyewall_requests_total", "405", "OTHER"] == 1
    assert samples["eyewall_requests_total", "101", "GET"] == 1
    assert samples["eyewall_request_duration_seconds_count",] >= 4
    assert samples["eyewall_request_duration_seconds_bucket", "+Inf"] >= 4
    assert samples["eyewall_request_duration_seconds_bucket", "10.0"] >= 4
    assert 0 < samples["eyewall_request_duration_seconds_sum",] < 30
    assert samples["eyewall_connections",] == 1
    assert samples["eyewall_loop_lag_seconds",] >= 0
    assert samples["eyewall_ready",] == 1
    assert samples["process_open_fds",] > 5
    websocket.close()
    until(lambda: metrics(server)["eyewall_websockets",] == 0)


def test_a_request_whose_client_left_is_counted_as_not_answered(server: Eyewall) -> None:
    connection = server.connect()
    connection.sendall(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nx")
    server.logged("upload begins")
    connection.close()
    until(lambda: metrics(server).get(("eyewall_requests_total", "none", "PUT")) == 1)
    assert server.status()["requests_in_flight"] == 0


def test_what_is_no_head_of_a_request_is_counted(server: Eyewall) -> None:
    """And nothing else is: not who leaves, before a request, in the middle of its head or after it."""
    heads = [
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"x" * HEAD,
        # on a connection that was good for a request
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\nGET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    for head in heads:
        with server.connect() as connection:
            connection.sendall(head)
            with suppress(ConnectionResetError):
                while connection.recv(65536):
                    pass
    for head in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"):
        with server.connect() as connection:
            connection.sendall(head)
            if head.endswith(b"\r\n"):
                while connection.recv(65536):
                    pass
    until(lambda: server.status()["connections"] == 0)
    samples = metrics(server)
    assert samples["eyewall_malformed_heads_total",] == len(heads)
    assert samples["eyewall_requests_total", "200", "GET"] == 2


def test_a_stale_socket_is_replaced(start: Start, tmp_path: Path) -> None:
    port = free_port()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / f"{port}.sock"))
    start(SAMPLE, port=port).ready()


def test_another_file_is_not_replaced(start: Start, tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / f"{port}.sock").write_text("precious")
    server = start(SAMPLE, port=port)
    assert server.wait() == 2
    assert "exists and is no socket" in server.log
    assert (tmp_path / f"{port}.sock").read_text() == "precious"


def test_a_successor_takes_the_path_over_and_keeps_it(start: Start) -> None:
    old = start().ready()
    new = start(SAMPLE, port=old.port).ready()
    assert old.admin == new.admin
    old.send(signal.SIGTERM)
    assert old.wait() == 0
    assert new.status()["pid"] == new.process.pid


def test_a_successor_that_cannot_load_disturbs_nobody(start: Start) -> None:
    old = start().ready()
    new = start("eyewall_sample:raises", port=old.port)
    assert new.wait() == 2
    assert old.status()["pid"] == old.process.pid


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--wsgi"]])
def test_an_orphan_serves_until_its_successor_is_there(start: Start, tmp_path: Path, options: list[str]) -> None:
    port = free_port()
    admin = tmp_path / f"{port}.sock"
    arguments = command("--port", str(port), "--admin", str(admin), *options, SAMPLE)
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *arguments],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    try:
        until(lambda: ask_admin(admin, "/ready")[0] == 200)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        # Three turns of its watch: without a successor it stays, and answers.
        time.sleep(3)
        assert json.loads(ask_admin(admin, "/ready")[1])["pid"] == orphan
        successor = start(SAMPLE, port=port).ready()
        until(lambda: not is_alive(orphan), "the orphan's end")
        log = (tmp_path / "orphan.log").read_text()
        assert "drain starts (orphaned, and a successor is here)" in log
        assert "connections cut" not in log
        assert successor.get()["pid"] == successor.process.pid
        assert successor.status()["pid"] == successor.process.pid
    finally:
        if is_alive(orphan):
            os.kill(orphan, signal.SIGKILL)


@pytest.mark.slow
def test_a_process_with_its_parent_stays_when_another_takes_the_path(start: Start) -> None:
    old = start().ready()
    start(SAMPLE, port=old.port).ready()
    time.sleep(2.5)
    assert old.process.poll() is None
    assert "drain" not in old.log


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--wsgi"], ["--processes", "2"]])
def test_a_socket_that_was_removed_with_its_directory_is_made_again(
    start: Start, tmp_path: Path, options: list[str]
) -> None:
    """The process serves on meanwhile."""
    place = tmp_path / "run"
    place.mkdir()
    server = start(SAMPLE, "--admin", str(place / "admin.sock"), *options)
    server.admin = place / "admin.sock"
    server.ready()
    pid = server.status()["pid"]
    shutil.rmtree(place)
    assert ask_admin(server.admin, "/ready")[0] == 0
    server.get()
    place.mkdir()
    until(lambda: ask_admin(server.admin, "/ready")[0] == 200, "the socket")
    assert server.admin.stat().st_mode & 0o777 == 0o600
    assert server.status()["pid"] == pid
    if "--processes" in options:  # the group's socket asks those of its processes
        until(lambda: len([one for one in server.status()["processes"] if "pid" in one]) == 2, "both processes")
    server.terminate()
    assert server.wait() == 0
    assert "--wsgi" in options or not list(place.iterdir())


def test_an_age_is_never_negative() -> None:
    """The host's clock may be set back while the process runs."""
    counts: Any = SimpleNamespace(connections=0, websockets=0, total=0, in_flight=0)
    status = Status(counts, counts, draining=bool, port=8000, address="", release="", generation="")
    status.started += 3600
    assert 0 <= asyncio.run(status.full())["uptime_seconds"] < 60
