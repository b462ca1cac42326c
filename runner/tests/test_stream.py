"""Connections: what comes early, clients that leave, and those that say nothing."""

import asyncio
import socket
import time
from collections.abc import Callable
from typing import BinaryIO

import pytest
from eyewall.stream import Stream
from support.proc import cpu_seconds
from support.runner import TESTS, Eyewall, WebSocket, receive_answer
from support.waiting import until
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream
from wsproto.events import TextMessage

pytestmark = pytest.mark.slow

Start = Callable[..., Eyewall]
PROGRAM = str(TESTS / "eyewall_program.py")
SLOW = b"GET /slow?seconds=1 HTTP/1.1\r\nHost: x\r\n\r\n"
QUICK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def read_answer(answers: BinaryIO) -> None:
    """Read one answer, and nothing of the next."""
    assert answers.readline() == b"HTTP/1.1 200 OK\r\n"
    length = 0
    while line := answers.readline().strip():
        if line.startswith(b"Content-Length:"):
            length = int(line[15:])
    assert len(answers.read(length)) == length


@pytest.mark.parametrize("loop", [[], ["--no-uvloop"]])
def test_requests_that_come_early_are_answered_one_after_the_other(start: Start, loop: list[str]) -> None:
    server = start("eyewall_sample:make_app", *loop).ready()
    with server.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(SLOW + QUICK * 2000)  # 80 KB: more than the process takes at once
        for _ in range(2001):
            read_answer(answers)
    assert server.status()["requests"] == 2001


@pytest.mark.parametrize("loop", [[], ["--no-uvloop"]])
def test_a_request_that_comes_early_costs_nothing_while_it_waits(start: Start, loop: list[str]) -> None:
    server = start("eyewall_sample:make_app", *loop).ready()
    with server.connect() as connection, connection.makefile("rb") as answers:
        connection.sendall(SLOW)
        server.logged("slow begins")
        connection.sendall(QUICK)
        before = cpu_seconds(server.process.pid)
        read_answer(answers)
        assert cpu_seconds(server.process.pid) - before < 0.3  # a loop that turns for nothing takes the whole second
        read_answer(answers)


def test_a_client_that_leaves_before_its_answer_is_noticed(server: Eyewall) -> None:
    with server.connect() as connection:
        connection.sendall(SLOW.replace(b"=1", b"=20"))
        server.logged("slow begins")
    server.logged("the client has left")


def test_a_frame_that_comes_before_the_websocket_is_open_is_read(server: Eyewall) -> None:
    socket = WebSocket(server, "/echo?seconds=0.5")
    socket.connection.sendall(b"\x81\x85\0\0\0\0early")  # wsproto would send no frame by now
    assert socket.handshake().receive() == TextMessage("early")
    socket.echo("later")
    socket.close()


def test_idle_connections_are_closed_and_busy_ones_are_not(start: Start) -> None:
    server = start(PROGRAM, program=["impatient"]).ready()  # idle_connection_timeout=1
    live = WebSocket(server, "/echo").handshake()
    with server.connect() as silent, server.connect() as halting, server.connect() as busy:
        began = time.monotonic()
        halting.sendall(QUICK[:10])
        busy.sendall(SLOW.replace(b"=1", b"=3"))
        assert (silent.recv(1), halting.recv(1)) == (b"", b"")
        assert time.monotonic() - began >= 1
        assert server.status()["connections"] == 2
        receive_answer(busy)
        answered = time.monotonic()
        assert busy.recv(1) == b""
        assert time.monotonic() - answered >= 0.9
    live.echo("still open")
    live.close()
    until(lambda: server.status()["connections"] == 0)


async def _nodelay(listener: socket.socket) -> int:
    with socket.create_connection(listener.getsockname()):
        stream = Stream(listener.accept()[0], lingering=set())
        stream.set_nodelay(False)
        try:
            return stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        finally:
            stream.close()


def test_small_packets_are_not_held_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert IOLoop(make_current=False).run_sync(lambda: _nodelay(listener))


def test_a_stream_has_no_more_attributes_than_tornados() -> None:
    """`Stream.__slots__` says why."""
    ours, theirs = socket.socketpair()

    async def attributes() -> tuple[set[str], set[str]]:
        stream, plain = Stream(ours, lingering=set()), IOStream(theirs)
        found = set(vars(stream)), set(vars(plain))
        stream.close()
        plain.close()
        return found

    stream, plain = asyncio.run(attributes())
    assert stream == plain
