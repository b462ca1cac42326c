"""A process whose open files are all in use: it lets nobody in, says so once, and costs nothing."""

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from support.net import free_port
from support.proc import cpu_seconds
from support.runner import (
    POST,
    Eyewall,
    ask_admin,
    command,
    environment,
    receive_answer,
)
from support.waiting import until

pytestmark = pytest.mark.slow

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
PROGRAM = str(Path(__file__).parent / "eyewall_program.py")
LIMIT = 64
WARNING = "no connections are accepted"
BARE = """
import asyncio, eyewall_sample
async def main():
    eyewall_sample.make_app().listen({port}, "127.0.0.1")
    await asyncio.Event().wait()
asyncio.run(main())
"""


def limited(*arguments: str, limit: int = LIMIT) -> list[str]:
    return ["prlimit", f"--nofile={limit}", "--", *command(*arguments)]


def cpu_share(pid: int, seconds: float = 1.0) -> float:
    before = cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / seconds


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def fill(port: int) -> Iterator[list[socket.socket]]:
    """Send requests on more connections than there are files for; the later ones wait in the queue."""
    with ExitStack() as at_exit:
        connections = []
        for _ in range(2 * LIMIT):
            connections.append(at_exit.enter_context(socket.create_connection(("127.0.0.1", port), 5)))
            connections[-1].sendall(POST)
        yield connections


def answered(connections: list[socket.socket]) -> list[socket.socket]:
    """Return those that have their answer, and take it."""
    for connection in connections:
        connection.setblocking(False)
    found = []
    for connection in connections:
        try:
            if b'"length": 5' in connection.recv(65536):
                found.append(connection)
        except BlockingIOError:
            pass
        connection.settimeout(20)
    return found


def pauses(server: Eyewall) -> int:
    body = ask_admin(server.admin, "/metrics")[1]
    return next(
        int(float(line.split()[1])) for line in body.splitlines() if line.startswith("eyewall_accept_pauses_total ")
    )


HOWS = {
    "factory": ((SAMPLE,), ()),
    "factory, asyncio": (("--no-uvloop", SAMPLE), ()),
    "program": ((PROGRAM,), ("listen",)),
    "program, asyncio": (("--no-uvloop", PROGRAM), ("listen",)),
    "several servers": ((PROGRAM,), ("twice",)),
}


@pytest.mark.parametrize("how", HOWS)
def test_a_full_process_pauses_and_goes_on_when_there_is_room(how: str, start: Start) -> None:
    arguments, program = HOWS[how]
    *options, target = arguments
    server = start(target, *options, program=program, command=limited).ready()
    with fill(server.port) as connections:
        server.logged(WARNING)
        assert cpu_share(server.process.pid) < 0.05
        held = answered(connections)
        waiting = [connection for connection in connections if connection not in held]
        assert len(held) > LIMIT // 4
        assert len(waiting) > LIMIT
        # its files are reserved, so it can be asked, and those whom it has are answered
        assert pauses(server) == 1
        assert server.status()["open_files"] > LIMIT // 2
        held[0].sendall(POST)
        receive_answer(held[0])
        while waiting:
            for connection in held:
                connection.close()
            held = until(partial(answered, waiting), "somebody in the queue has an answer")
            waiting = [connection for connection in waiting if connection not in held]
    server.logged("connections are accepted again")
    assert server.log.count(WARNING) == 1
    assert "Traceback" not in server.log


def test_a_successor_starts_beside_a_full_process_that_then_leaves(start: Start) -> None:
    server = start(SAMPLE, "--drain-timeout", "10", command=limited).ready()
    with fill(server.port) as connections:
        server.logged(WARNING)
        successor = start(SAMPLE, port=server.port).ready()
        held = answered(connections)
        server.terminate()
        for connection in held:
            connection.sendall(POST)
            assert "Connection: close" in receive_answer(connection)[0]
        # what the reserve has room for is taken from the queue; the rest is the kernel's (net.ipv4.tcp_migrate_req)
        assert server.wait() == 0
        assert "the last connection is gone" in server.log
        assert successor.get()["pid"] == successor.process.pid


def test_files_that_the_application_took_are_waited_for_as_well(start: Start) -> None:
    server = start("eyewall_sample:make_hungry_app", command=limited).ready()
    with server.connect() as first, server.connect() as second:
        first.sendall(b"GET /take HTTP/1.1\r\nHost: x\r\n\r\n")
        receive_answer(first)
        second.sendall(POST)
        more = server.connect()
        more.sendall(POST)
        assert "Too many open files" in server.logged(WARNING)
        assert cpu_share(server.process.pid) < 0.05
        assert not answered([more])
        first.sendall(b"GET /give HTTP/1.1\r\nHost: x\r\n\r\n")
        receive_answer(first)
        receive_answer(more)
        more.close()
    assert server.log.count(WARNING) == 1
    assert "Traceback" not in server.log


def test_wsgi_has_fewer_connections_than_open_files(start: Start) -> None:
    server = start(SAMPLE, "--wsgi", command=partial(limited, limit=2 * LIMIT)).ready()
    with fill(server.port) as connections:
        time.sleep(1)
        held = answered(connections)
        waiting = [connection for connection in connections if connection not in held]
        assert LIMIT // 2 < len(held) <= LIMIT
        while waiting:
            for connection in held:
                connection.close()
            held = until(partial(answered, waiting), "somebody in the queue has an answer")
            waiting = [connection for connection in waiting if connection not in held]
    assert "Traceback" not in server.log


def test_bare_tornado_spins(tmp_path: Path) -> None:
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        bare = subprocess.Popen(
            ["prlimit", f"--nofile={LIMIT}", "--", sys.executable, "-c", BARE.format(port=port)],
            env=environment(), stderr=log,
        )  # fmt: skip
    try:
        until(lambda: listens(port), "bare Tornado listens")
        with fill(port):
            assert cpu_share(bare.pid) > 0.1  # of what it can get: others want the machine, too
        assert (tmp_path / "log").read_text().count("Too many open files") > 100
    finally:
        bare.kill()
        bare.wait()
