"""Runs ``python -m eyewall`` as a real process, and talks to it."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Event, Request, TextMessage

from support import REPOSITORY
from support.net import UnixConnection, free_port
from support.waiting import PATIENCE, until

RUNNER = REPOSITORY / "runner"
TESTS = RUNNER / "tests"
SRC = RUNNER / "src"


def environment() -> dict[str, str]:
    # behind them, whatever this process has other libraries from (test_oldest_dependencies.py)
    path = os.pathsep.join([str(SRC), str(TESTS), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "eyewall", *arguments]


def under_autoreload(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tornado.autoreload", "-m", "eyewall", "--", *arguments]


def ask_admin(path: Path, what: str, method: str = "GET") -> tuple[int, str]:
    """Ask an admin socket: status and body; status 0 if nobody listens."""
    connection = UnixConnection(path)
    try:
        connection.request(method, what)
        response = connection.getresponse()
        return response.status, response.read().decode()
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


# Starts a command and waits for it, which the command survives where this is killed.
PARENT = """
import subprocess, sys
child = subprocess.Popen(sys.argv[1:], stderr=open("orphan.log", "wb"))
print(child.pid, flush=True)
child.wait()
"""


def refused(*arguments: str, directory: Path | None = None) -> str:
    """Run the command, which must exit with 2; return what it wrote to stderr."""
    result = subprocess.run(
        command(*arguments),
        check=False,
        env=environment(),
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert result.returncode == 2, result
    assert result.stdout == ""
    return result.stderr


def sentence(*arguments: str, directory: Path | None = None) -> str:
    """As `refused`, for what must say one line and no more."""
    text = refused(*arguments, directory=directory)
    assert text.startswith("eyewall: ")
    assert text.count("\n") == 1, text
    return text


class Eyewall:
    """A running process; `log` is what it wrote to stderr so far. `program`: what follows the target."""

    def __init__(
        self,
        directory: Path,
        target: str = "eyewall_sample:make_app",
        *options: str,
        port: int = 0,
        program: Sequence[str] = (),
        command: Callable[..., list[str]] = command,
    ) -> None:
        self.port = port or free_port()
        self.admin = directory / f"{self.port}.sock"
        self.log_path = directory / f"{self.port}-{time.monotonic_ns()}.log"
        arguments = ["--port", str(self.port), "--admin", str(self.admin), *options, target, *program]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(command(*arguments), env=environment(), cwd=directory, stderr=log)

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def ready(self) -> Self:
        def check() -> bool:
            assert self.process.poll() is None, self.log
            status, body = ask_admin(self.admin, "/ready")
            return status == 200 and json.loads(body)["pid"] == self.process.pid

        until(check, "ready")
        return self

    def logged(self, text: str) -> str:
        """Wait for a line with `text`, and return it."""
        line: str = until(
            lambda: next((line for line in self.log.splitlines() if text in line), ""), f"{text!r} in the log"
        )
        return line

    def status(self) -> dict[str, Any]:
        status, body = ask_admin(self.admin, "/status")
        assert status == 200, body
        content: dict[str, Any] = json.loads(body)
        return content

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def client(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)

    def get(self, path: str = "/", headers: dict[str, str] | None = None) -> Any:
        """GET on a new connection; the JSON of the answer."""
        client = self.client()
        try:
            client.request("GET", path, headers=headers or {})
            response = client.getresponse()
            body = response.read()
            assert response.status == 200, body
            return json.loads(body)
        finally:
            client.close()

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM, and wait until the drain has begun."""
        self.send(signal.SIGTERM)
        self.logged("drain starts")

    def ask_to_drain(self) -> None:
        """Ask on the admin socket, and wait until the drain has ended."""
        status, body = ask_admin(self.admin, "/drain", "POST")
        assert (status, json.loads(body)["state"] in ("draining", "drained")) == (200, True), body
        until(lambda: '"state": "drained"' in ask_admin(self.admin, "/ready")[1], "drained")

    def wait(self, seconds: float = PATIENCE) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"


def receive_answer(connection: socket.socket) -> tuple[str, bytes]:
    """Read one answer with a Content-Length: its head, its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (received := connection.recv(65536)):
            raise ConnectionError(f"closed after {data!r}")
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(next(h for h in head.lower().split(b"\r\n") if h.startswith(b"content-length:"))[15:])
    while len(body) < length:
        if not (received := connection.recv(65536)):
            raise ConnectionError(f"closed after {data!r}")
        body += received
    return head.decode(), body


class WebSocket:
    """A client whose every step is the test's own: wsproto does the framing, and answers nothing by itself."""

    def __init__(self, server: Eyewall, path: str = "/echo", connection: socket.socket | None = None) -> None:
        self.connection = connection or server.connect()
        self._framing = WSConnection(ConnectionType.CLIENT)
        self.send(Request(host="x", target=path))

    def handshake(self) -> Self:
        event = self.receive()
        assert isinstance(event, AcceptConnection), event
        return self

    def send(self, event: Event) -> None:
        self.connection.sendall(self._framing.send(event))

    def receive(self) -> Event:
        while (event := next(self._framing.events(), None)) is None:
            data = self.connection.recv(65536)
            assert data, "closed without a frame"
            self._framing.receive_data(data)
        return event

    def echo(self, text: str) -> None:
        self.send(TextMessage(text))
        assert self.receive() == TextMessage(text)

    def wait_for_close(self) -> tuple[int, str]:
        """Receive a close frame and answer it; its code and reason."""
        event = self.receive()
        assert isinstance(event, CloseConnection), event
        self.send(event.response())
        assert self.connection.recv(1) == b""
        self.close()
        return event.code, event.reason or ""

    def close(self) -> None:
        self.connection.close()


def stop_with_a_full_queue(server: Eyewall, connect: Callable[[], socket.socket]) -> None:
    """Send SIGTERM while requests wait in the accept queue, and see that each of them is answered."""
    # More than the 128 that Tornado accepts in one turn of the loop, so the signal finds some in the queue.
    server.send(signal.SIGSTOP)
    connections = [connect() for _ in range(300)]
    for connection in connections:
        connection.sendall(POST)
    server.send(signal.SIGTERM)
    server.send(signal.SIGCONT)
    for connection in connections:
        assert b'"length": 5' in receive_answer(connection)[1]
        connection.close()


class Posters:
    """Threads that POST without a pause and count what became of each request. Nothing is ever retried.

    Half of them keep their connection while the server lets them, half open a new one each time.
    """

    def __init__(self, port: int, threads: int = 8) -> None:
        self.answered: list[int] = []  # the pid that answered
        self.lost: list[str] = []
        self._port = port
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(index % 2 == 0,), daemon=True) for index in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def _run(self, keep: bool) -> None:
        client = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        while not self._stop.is_set():
            try:
                client.request("POST", "/slow?seconds=0.02", b"x" * 100)
                response = client.getresponse()
                body = response.read()
                assert response.status == 200, body
                self.answered.append(json.loads(body)["pid"])
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.lost.append(repr(error))
                client.close()
            if not keep:
                client.close()
        client.close()
