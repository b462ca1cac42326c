"""Bodies: what is too large to be held is refused before it is read, and what comes too slowly is ended."""

import contextlib
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from eyewall.bodies import WINDOW, Body, declared
from support.runner import TESTS, Eyewall, receive_answer
from support.waiting import until

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
MB = 1024 * 1024
# What the process takes for itself, beside bodies.
NOISE = 12 * MB


def head(request: str, *headers: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"{request} HTTP/1.1", "Host: x", *headers, "")).encode()


def with_length(request: str, size: int, *headers: str) -> bytes:
    return head(request, f"Content-Length: {size}", *headers)


def status(connection: socket.socket) -> int:
    """The status of an answer after which the connection ends."""
    answer, _ = receive_answer(connection)
    assert "\r\nConnection: close" in answer
    with contextlib.suppress(ConnectionResetError):
        assert connection.recv(1) == b""
    return int(answer.split()[1])


def resident(server: Eyewall) -> int:
    """Bytes of memory that a process has (proc(5))."""
    fields = Path(f"/proc/{server.process.pid}/statm").read_text().split()
    return int(fields[1]) * 4096


@pytest.mark.parametrize("loop", [[], ["--no-uvloop"]], ids=["uvloop", "asyncio"])
def test_what_is_held_in_memory_is_refused_by_size_before_it_is_read(start: Start, loop: list[str]) -> None:
    server = start(SAMPLE, *loop).ready()
    before = resident(server)
    # a handler that does not stream, an address that there is not, a method that there is not
    for request in ("POST /", "POST /missing", "DELETE /slow"):
        with server.connect() as connection:
            connection.sendall(with_length(request, 49 * MB))
            assert status(connection) == 413
        # whoever does not wait for the answer sees it nevertheless, and no reset
        with server.connect() as connection:
            connection.sendall(with_length(request, 49 * MB) + b"x" * 4 * MB)
            assert status(connection) == 413
        with server.connect() as connection:
            connection.sendall(head(request, "Transfer-Encoding: chunked"))
            connection.sendall((b"%x\r\n" % MB + b"x" * MB + b"\r\n") * 2)
            assert status(connection) == 413
    assert resident(server) - before < NOISE
    line = server.logged("413 DELETE /slow (127.0.0.1): ")
    assert "WARNING" in line
    assert "more than --max-buffered-body (1048576)" in line
    until(lambda: server.status()["connections"] == 0)


def test_the_largest_that_fits_passes_and_what_is_streamed_may_be_larger(server: Eyewall) -> None:
    with server.connect() as connection:
        connection.sendall(with_length("POST /", MB) + b"x" * MB)
        assert b'"length": 1048576' in receive_answer(connection)[1]
        connection.sendall(head("POST /", "Transfer-Encoding: chunked"))
        connection.sendall(b"%x\r\n" % MB + b"x" * MB + b"\r\n0\r\n\r\n")
        assert b'"length": 1048576' in receive_answer(connection)[1]
        connection.sendall(with_length("PUT /upload", 5 * MB) + b"x" * 5 * MB)
        assert b'"length": 5242880' in receive_answer(connection)[1]


def test_the_size_is_an_option_and_holds_for_programs(start: Start) -> None:
    program = str(TESTS / "eyewall_program.py")
    server = start(program, "--max-buffered-body", "2k", program=["listen"]).ready()
    for size, wanted in ((2048, b"200"), (2049, b"413")):
        with server.connect() as connection:
            connection.sendall(with_length("POST /", size) + b"x" * size)
            assert receive_answer(connection)[0].split()[1].encode() == wanted
    server = start(SAMPLE, "--max-buffered-body", "0").ready()
    with server.connect() as connection:
        connection.sendall(with_length("POST /", 5 * MB) + b"x" * 5 * MB)
        assert b'"length": 5242880' in receive_answer(connection)[1]


def test_one_client_has_no_more_than_its_share_of_memory(server: Eyewall) -> None:
    def begin(client: str) -> socket.socket:
        connection = at_end.enter_context(server.connect())
        connection.sendall(with_length("POST /", MB, f"X-Real-IP: {client}") + b"x")
        return connection

    with contextlib.ExitStack() as at_end:
        held = [begin("203.0.113.1") for _ in range(16)]
        until(lambda: server.status()["connections"] == 16)
        assert status(begin("203.0.113.1")) == 429
        other = begin("203.0.113.2")
        # what is complete counts no longer
        for connection in (held[0], other):
            connection.sendall(b"x" * (MB - 1))
            assert b'"length": 1048576' in receive_answer(connection)[1]
        again = begin("203.0.113.1")
        again.sendall(b"x" * (MB - 1))
        assert b'"length": 1048576' in receive_answer(again)[1]


@pytest.mark.slow
def test_a_slow_body_is_ended_and_a_steady_one_is_not(start: Start) -> None:
    server = start(SAMPLE, "--min-body-rate", "2000").ready()
    with contextlib.ExitStack() as at_end:
        slow = {}
        for name, request, sent in (
            ("the last byte held back", "POST /", MB - 1),
            ("a drip", "POST /", 1),
            ("a stream's drip", "PUT /upload", 1),
        ):
            connection = slow[name] = at_end.enter_context(server.connect())
            connection.sendall(with_length(request, MB) + b"x" * sent)
        steady = at_end.enter_context(server.connect())
        steady.sendall(with_length("PUT /upload", 10 * MB))
        idle = at_end.enter_context(server.connect())
        began, ended, sent = time.monotonic(), {}, 0
        while len(ended) < len(slow) or time.monotonic() - began < WINDOW * 1.5:
            assert time.monotonic() - began < 6 * WINDOW, ended
            time.sleep(0.5)
            steady.sendall(b"x" * 2500)
            sent += 2500
            for name, connection in slow.items():
                if name not in ended:
                    with contextlib.suppress(BlockingIOError):
                        connection.setblocking(False)
                        if connection.recv(1, socket.MSG_PEEK):
                            ended[name] = time.monotonic() - began
                        connection.setblocking(True)
                    if "drip" in name and name not in ended:
                        connection.setblocking(True)
                        connection.sendall(b"x")
        for connection in slow.values():
            connection.setblocking(True)
            assert status(connection) == 408
        assert min(ended.values()) >= WINDOW * 0.9
        steady.sendall(b"x" * (10 * MB - sent))
        assert b'"length": 10485760' in receive_answer(steady)[1]
        idle.sendall(head("GET /"))
        assert "200 OK" in receive_answer(idle)[0]
    server.logged("408 PUT /upload (127.0.0.1): less than 2000 bytes of a body per second")


def test_the_rate_is_taken_over_a_window() -> None:
    body = Body("client", 0, 100.0)
    assert not body.is_slow(10, 100.0 + WINDOW - 1)
    body.received = 10 * int(WINDOW)
    assert not body.is_slow(10, 100.0 + WINDOW)
    body.received += 10 * int(WINDOW) - 1
    assert body.is_slow(10, 100.0 + 2 * WINDOW)
    # while the application has it, a body is not slow
    body.forgive(1000.0)
    assert not body.is_slow(10, 1001.0)


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1048576", MB), ("", None), ("-1", None), ("5, 5", None), ("²", None), ("9" * 30, None)],
)
def test_what_a_length_declares(text: str, size: int | None) -> None:
    assert declared(text) == size
