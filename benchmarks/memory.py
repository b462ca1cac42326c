"""How much memory does an open connection cost? The runner's private memory, with and without some thousands of them.

    python benchmarks/memory.py
    python benchmarks/memory.py --bare     # Tornado's own HTTPServer, for comparison

One process on uvloop; what it has anyway is not counted, for the figure is the difference between `FEW` and `MANY` connections.
Ends with status 1 if a case costs more than `ALLOWED` times its limit.
"""

import argparse
import asyncio
import gc
import logging
import os
import re
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path

from instructions import ALLOWED, BROWSER, Hello, free_port, request
from tornado.httpserver import HTTPServer
from tornado.web import Application
from tornado.websocket import WebSocketHandler

HERE = Path(__file__).resolve()
RUNNER = HERE.parent.parent / "runner" / "src"
# Python takes memory a megabyte at a time, so few connections would tell little.
FEW, MANY = 2000, 12_000
HANDSHAKE = BROWSER | {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Extensions": "permessage-deflate; client_max_window_bits",
}

# By name: what a connection sends before it is idle, and the bytes of memory that it may cost.
CASES: dict[str, tuple[bytes, int]] = {
    "idle kept-alive connection": (request("GET", "/", BROWSER), 2048),
    "idle WebSocket": (request("GET", "/websocket", HANDSHAKE), 10 * 1024),
}


class Talk(WebSocketHandler):
    def check_origin(self, origin: str) -> bool:
        del origin
        return True

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


def make_app() -> Application:
    return Application([("/", Hello), ("/websocket", Talk)], log_function=lambda _: None)


async def serve_bare(port: int) -> None:
    logging.getLogger("tornado.access").setLevel(logging.WARNING)
    application = make_app()
    gc.collect()
    gc.freeze()
    HTTPServer(application, xheaders=True).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


def connect(port: int, content: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.sendall(content)
    answer = b""
    while b"\r\n\r\n" not in answer:
        data = connection.recv(65536)
        assert data, answer
        answer += data
    assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 101 ")), answer
    return connection


def measure(command: list[str], port: int, content: bytes) -> float:
    """Return the bytes of a connection."""
    path = os.pathsep.join((os.environ.get("EYEWALL_SOURCE", str(RUNNER)), str(HERE.parent)))
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", sys.executable, *command],
        env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def memory() -> int:
        time.sleep(3)  # a WebSocket is idle after one
        match = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())
        assert match
        return int(match[1]) * 1024

    try:
        while True:
            assert process.poll() is None, "the server did not start"
            try:
                connect(port, request("GET", "/", BROWSER)).close()
            except OSError:
                time.sleep(0.2)
            else:
                break
        open_ones = [connect(port, content) for _ in range(FEW)]
        before = memory()
        open_ones += [connect(port, content) for _ in range(MANY - FEW)]
        after = memory()
        for connection in open_ones:
            connection.close()
        return (after - before) / (MANY - FEW)
    finally:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure the memory of a connection.")
    parser.add_argument("--bare", action="store_true", help="of Tornado's own server")
    parser.add_argument("--serve-bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="options of the runner, after --")
    given = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if given.serve_bare:
        import uvloop  # noqa: PLC0415 - the measuring process does not need it

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_bare(given.serve_bare))
    wrong = 0
    for name, (content, limit) in CASES.items():
        port = free_port()
        bare = [str(HERE), "--serve-bare", str(port)]
        eyewall = ["-m", "eyewall", "--port", str(port), "--watchdog", "0", *given.options, f"{HERE.stem}:make_app"]
        number = measure(bare if given.bare else eyewall, port, content)
        above = not given.bare and number > limit * ALLOWED
        wrong |= above
        print(f"{name}: {number:,.0f} bytes of {limit:,}{' TOO MANY' * above}", flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
