"""What does everybody else wait when thousands of clients leave at once? Bare Tornado and ``python -m eyewall`` in turns.

    python benchmarks/leaving.py [--clients 8000] [--rounds 3] [--no-uvloop]

A process holds the WebSockets of all clients, and ends. Meanwhile one client asks for a small page, again and again: the
longest time that it waits is the figure. Prints the median of each server's, and the ratio. Open files must be in force for
all clients (``ulimit -n``), for the server and for the process that holds them.
"""

import argparse
import asyncio
import os
import resource
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

import uvloop
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

HERE = Path(__file__).resolve()
RUNNER = HERE.parent.parent / "runner" / "src"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(RUNNER)}
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
UPGRADE = (
    b"GET /socket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
SECONDS = 5.0  # for which the client asks, after all others have left
FILES = 64  # more than clients


class Page(RequestHandler):
    def get(self) -> None:
        self.write("hello")


def make_app() -> Application:
    return Application([("/", Page), ("/socket", WebSocketHandler)])


async def serve(port: int) -> None:
    make_app().listen(port, "127.0.0.1", backlog=4096)
    await asyncio.Event().wait()


def hold(port: int, clients: int) -> None:
    """Hold WebSockets until something comes on stdin; this process's end is the end of all of them."""
    connections = [connect(port, UPGRADE) for _ in range(clients)]
    print(len(connections), flush=True)
    sys.stdin.readline()


def connect(port: int, request: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), 60)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.sendall(request)
    connection.recv(65536)
    return connection


def longest_wait(server: list[str], port: int, clients: int) -> float:
    """Run `server`, let `clients` come and leave, and return the longest wait, in seconds."""
    with subprocess.Popen(
        [sys.executable, *server], cwd=HERE.parent, env=ENVIRONMENT, stderr=subprocess.DEVNULL
    ) as process:
        try:
            while True:
                try:
                    connect(port, GET).close()
                    break
                except OSError:
                    time.sleep(0.1)
            holder = [sys.executable, str(HERE), "--hold", str(port), "--clients", str(clients)]
            with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as others:
                assert others.stdin
                assert others.stdout
                others.stdout.readline()
                with connect(port, GET) as connection:
                    waits = []
                    others.stdin.close()
                    deadline = time.monotonic() + SECONDS
                    while (began := time.monotonic()) < deadline:
                        connection.sendall(GET)
                        connection.recv(65536)
                        waits.append(time.monotonic() - began)
                return max(waits)
        finally:
            process.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=8000, help="(%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(%(default)s)")
    parser.add_argument("--no-uvloop", action="store_true", help="asyncio's own loop")
    parser.add_argument("--hold", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--bare", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (given.clients + FILES, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    if given.hold:
        hold(given.hold, given.clients)
        return
    if given.bare:
        with asyncio.Runner(
            loop_factory=asyncio.new_event_loop if given.no_uvloop else uvloop.new_event_loop
        ) as runner:
            runner.run(serve(given.bare))
        return
    loop = ["--no-uvloop"] if given.no_uvloop else []
    waits: dict[str, list[float]] = {"bare": [], "runner": []}
    for _ in range(given.rounds):
        for name, found in waits.items():
            with socket.create_server(("127.0.0.1", 0)) as probe:
                port = probe.getsockname()[1]
            server = [str(HERE), "--bare", str(port), "--clients", str(given.clients), *loop]
            if name == "runner":
                options = ["--port", str(port), "--watchdog-timeout", "0", "--backlog", "4096", *loop]
                server = ["-m", "eyewall", *options, f"{HERE.stem}:make_app"]
            found.append(longest_wait(server, port, given.clients))
    bare, runner_ = (statistics.median(found) for found in waits.values())
    for name, found in waits.items():
        print(f"{name:7}", *(f"{1000 * wait:7.0f}" for wait in found), "ms")
    print(
        f"the longest wait while {given.clients} clients leave: {1000 * bare:.0f} ms, with the runner {1000 * runner_:.0f} ms, "
        f"a ratio of {runner_ / bare:.2f}"
    )


if __name__ == "__main__":
    main()
