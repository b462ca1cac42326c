"""A process off the air: its requests come over a Unix socket, and its port is left alone."""

import json
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from support.net import UnixConnection, connect_unix, free_port
from support.runner import (
    POST,
    Eyewall,
    WebSocket,
    ask_admin,
    receive_answer,
    stop_with_a_full_queue,
)

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
CLAIM = {"X-Real-IP": "203.0.113.9", "X-Scheme": "https", "X-Request-Id": "from-nginx-1"}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "proof.sock"


@pytest.fixture
def off_air(start: Start, path: Path) -> Start:
    """Start a process that listens on `path`; takes more options."""
    return lambda *options, port=0: start(SAMPLE, "--address", f"unix:{path}", *options, port=port)


def get(path: Path, what: str = "/", headers: dict[str, str] | None = None) -> dict[str, object]:
    client = UnixConnection(path)
    try:
        client.request("GET", what, headers=headers or {})
        response = client.getresponse()
        body = response.read()
        assert response.status == 200, body
        content: dict[str, object] = json.loads(body)
        return content
    finally:
        client.close()


def test_it_answers_there_while_another_program_has_the_port(off_air: Start, path: Path) -> None:
    with socket.create_server(("", 0)) as other:
        port = other.getsockname()[1]
        server = off_air(port=port).ready()
        assert get(path)["pid"] == server.process.pid
    assert path.stat().st_mode & 0o777 == 0o600
    assert get(path, "/environment")["PORT"] == str(port)
    status = server.status()
    assert (status["address"], status["port"], status["requests"]) == (f"unix:{path}", port, 2)
    assert f"INFO {port} - eyewall.process: serving {SAMPLE} on unix:{path}, release" in server.log


def test_its_port_is_not_bound(off_air: Start) -> None:
    server = off_air().ready()
    with pytest.raises(ConnectionRefusedError):
        server.connect()


@pytest.mark.parametrize(
    ("options", "client"),
    [([], ("0.0.0.0", "http")), (["--trusted", "0.0.0.0"], ("203.0.113.9", "https"))],  # noqa: S104
)
def test_a_peer_is_believed_only_if_listed(
    off_air: Start, path: Path, options: list[str], client: tuple[str, str]
) -> None:
    """Tornado names the peers of a Unix socket 0.0.0.0, from which nobody can connect over a network."""
    off_air(*options).ready()
    answer = get(path, headers=CLAIM)
    assert (answer["ip"], answer["protocol"]) == client


def test_a_drain_loses_nothing_and_leaves_nothing(off_air: Start, path: Path) -> None:
    server = off_air().ready()
    websocket = WebSocket(server, connection=connect_unix(path)).handshake()
    websocket.echo("hello")
    assert server.status()["websockets"] == 1
    stop_with_a_full_queue(server, lambda: connect_unix(path))
    assert websocket.wait_for_close() == (1012, "service restart")
    assert server.wait() == 0
    assert list(path.parent.glob("*.sock")) == []
    assert list(path.parent.glob(".*.sock")) == []


def test_a_drain_refuses_new_connections(off_air: Start, path: Path) -> None:
    server = off_air().ready()
    with connect_unix(path) as idle:
        idle.sendall(POST)
        receive_answer(idle)
        server.terminate()
        assert ask_admin(server.admin, "/ready")[0] == 503
        with pytest.raises(ConnectionRefusedError):
            connect_unix(path)
        idle.sendall(POST)
        assert "Connection: close" in receive_answer(idle)[0]


def test_what_a_killed_process_left_is_replaced(off_air: Start, path: Path) -> None:
    off_air().ready().kill()
    assert path.is_socket()
    server = off_air().ready()
    assert get(path)["pid"] == server.process.pid


def test_a_process_leaves_the_socket_of_a_later_one_alone(off_air: Start, path: Path) -> None:
    first, second = off_air().ready(), off_air().ready()
    first.send(signal.SIGTERM)
    assert first.wait() == 0
    assert get(path)["pid"] == second.process.pid


@pytest.mark.parametrize(
    "make",
    [lambda path: path.write_text("precious"), Path.mkdir, lambda path: path.symlink_to("nothing")],
    ids=["file", "directory", "link"],
)
def test_what_is_no_socket_is_refused_and_stays(off_air: Start, path: Path, make: Callable[[Path], object]) -> None:
    make(path)
    before = path.lstat()
    server = off_air(port=free_port())
    assert server.wait() == 2
    assert server.log == f"eyewall: --address unix:{path}: exists and is no socket\n"
    after = path.lstat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(path.parent.glob("*.sock")) == [path]
