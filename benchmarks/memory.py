"""How much memory does an open connection cost? The runner's private memory, with and without some thousands of them.

    python benchmarks/memory.py
    python benchmarks/memory.py --bare     # Tornado's own HTTPServer, for comparison

One process on uvloop; what it has anyway is not counted, for the figure is the difference between `FEW` and `MANY` connections.
Ends with status 1 if a case costs more than `ALLOWED` times its limit.
"""

import re
import resource
import socket
import sys
import time
from pathlib import Path

from on_host.ports import free_port
from one_server import BROWSER, Hello, exceeds, parse, request, running
from tornado.web import Application
from tornado.websocket import WebSocketHandler

HERE = Path(__file__).resolve()
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


def memory(pid: int) -> int:
    """Return the bytes of private memory of a process whose connections are idle."""
    time.sleep(3)  # a WebSocket is idle after one
    match = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert match
    return int(match[1]) * 1024


def measure(pid: int, port: int, content: bytes) -> float:
    """Return the bytes of a connection."""
    few = [connect(port, content) for _ in range(FEW)]
    before = memory(pid)
    more = [connect(port, content) for _ in range(MANY - FEW)]
    after = memory(pid)
    for connection in few + more:
        connection.close()
    return (after - before) / len(more)


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    given = parse("Measure the memory of a connection.", make_app)
    exceeding = []
    for name, (content, limit) in CASES.items():
        port = free_port()
        with running(HERE, given, port) as pid:
            exceeding.append(exceeds(given, name, measure(pid, port, content), "bytes", limit))
    return int(any(exceeding))


if __name__ == "__main__":
    sys.exit(main())
