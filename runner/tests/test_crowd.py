"""More connections than the loop handles in one turn."""

import json
import os
import resource
import signal
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import pytest
from eyewall.crowd import FEW, SLICE
from support.runner import PATIENCE, Eyewall, WebSocket, receive_answer
from support.waiting import until
from wsproto.events import CloseConnection

pytestmark = pytest.mark.slow

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
MANY = 1500
GET = b"GET /members HTTP/1.1\r\nHost: x\r\n\r\n"
LOOPS = pytest.mark.parametrize("options", [(), ("--no-uvloop",)], ids=["uvloop", "asyncio"])


@pytest.fixture(autouse=True)
def open_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4 * MANY)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def there(connection: socket.socket) -> int:
    return int(json.loads(receive_answer(connection)[1])["there"])


def ask(connection: socket.socket) -> int:
    connection.sendall(GET)
    return there(connection)


@contextmanager
def stopped(server: Eyewall) -> Iterator[None]:
    """Stop a process meanwhile: what happens is all there when its loop looks again."""
    server.send(signal.SIGSTOP)
    yield
    server.send(signal.SIGCONT)


@pytest.fixture
def crowd(server: Eyewall) -> Iterator[Eyewall]:
    """Start a process whose next connection is one of many."""
    with ExitStack() as idle:
        for _ in range(FEW):
            idle.enter_context(server.connect())
        until(lambda: server.status()["connections"] >= FEW)
        yield server


@LOOPS
def test_who_stays_does_not_wait_until_all_others_have_left(start: Start, options: tuple[str, ...]) -> None:
    """A request that comes after 1,500 WebSockets have left is answered while the application knows of most of them.

    Plain Tornado closes all of them first, and calls each ``on_close``.
    """
    server = start(SAMPLE, "--backlog", "4096", *options).ready()
    with ExitStack() as clients:
        members = [clients.enter_context(closing(WebSocket(server, "/member").handshake())) for _ in range(MANY)]
        connection = clients.enter_context(server.connect())
        assert ask(connection) == MANY
        with stopped(server):
            for member in members:
                member.close()
            connection.sendall(GET)
        assert there(connection) > MANY - FEW - 10 * SLICE
        until(lambda: ask(connection) == 0)
    until(lambda: server.status()["connections"] == 0)


@LOOPS
def test_a_process_that_drains_tells_and_cuts_in_slices(start: Start, options: tuple[str, ...]) -> None:
    """All are told 1012 or closed, and the application knows of the end of each."""
    server = start(SAMPLE, "--drain-timeout", "1", "--backlog", "4096", *options).ready()
    with ExitStack() as clients:
        members = [clients.enter_context(closing(WebSocket(server, "/member").handshake())) for _ in range(MANY)]
        for _ in range(FEW):
            clients.enter_context(server.connect())
        server.send(signal.SIGTERM)
        for member in members:
            assert member.receive() == CloseConnection(1012, "service restart")
        # they do not answer the close frame, and so are cut
        assert server.wait() == 0
    assert f"{MANY + FEW} connections cut" in server.log
    assert "Traceback" not in server.log


def test_one_of_many_is_served_as_any_other(crowd: Eyewall) -> None:
    with crowd.connect() as connection:
        for _ in range(3):
            assert ask(connection) == 0
        body = os.urandom(900_000)
        head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
        connection.sendall(head + body)
        assert json.loads(receive_answer(connection)[1])["length"] == len(body)
    socket_ = WebSocket(crowd).handshake()
    for text in ("a", "b"):
        socket_.echo(text)
    socket_.close()
    until(lambda: crowd.status()["connections"] == FEW)


def test_a_client_that_sends_no_more_gets_its_answer(crowd: Eyewall) -> None:
    """It has closed its end of the connection, which looks as if it had left."""
    with crowd.connect() as connection:
        connection.sendall(b"GET /slow?seconds=0.5 HTTP/1.0\r\nHost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    with crowd.connect() as connection:
        connection.sendall(GET)
        connection.shutdown(socket.SHUT_WR)
        assert there(connection) == 0
        assert connection.recv(1) == b""
    # as plain Tornado does: who has left before the answer gets none
    assert answer == b""


def test_a_client_that_resets_its_connection_is_gone(crowd: Eyewall) -> None:
    connection = crowd.connect()
    assert ask(connection) == 0
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    until(lambda: crowd.status()["connections"] == FEW)
    assert "Traceback" not in crowd.log


def test_a_child_has_nothing_of_it(crowd: Eyewall) -> None:
    """A child that changed the epoll would change its parent's."""
    with crowd.connect() as connection:
        assert ask(connection) == 0
        assert crowd.get("/pool")
        connection.settimeout(PATIENCE)
        assert ask(connection) == 0


def resident(server: Eyewall) -> int:
    """Bytes of memory that a process has for itself."""
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.parametrize("core", ["eyewall", "tornado"])
def test_ten_thousand_connections_with_a_byte_each_leave_nothing_behind(start: Start, core: str) -> None:
    """The second ten thousand need no more memory than the first: what they left is used again."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    many = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    server = start(SAMPLE, "--core", core).ready()
    address = ("127.0.0.1", server.port)
    full = []
    for _ in range(2):
        with ExitStack() as held:
            for _ in range(many):
                held.enter_context(socket.create_connection(address, PATIENCE)).sendall(b"G")
            until(lambda: server.status()["connections"] >= many, "all of them", 60)
            full.append(resident(server))
            with closing(server.connect()) as other:
                ask(other)  # who is none of them is answered meanwhile
        until(lambda: server.status()["connections"] == 0, "none of them", 60)
    assert full[1] < full[0] * 1.1, full
