"""What a process of the application may do to whoever asks it: nothing but answer, or not."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.product import helper, load_module

READY = {"state": "ready", "release": "1.0", "generation": "board-1.0-abcdef", "port": 8000, "pid": 4711}
COUNTS = dict.fromkeys(
    ("connections", "websockets", "requests", "requests_in_flight", "open_files", "open_files_limit"), 7
)
STATUS = {**READY, **COUNTS, "uptime_seconds": 1.5}
HANGS = 20.0  # seconds that a bad process takes up anybody who lets it

Answer = Callable[[socket.socket], None]


@pytest.fixture(scope="module")
def admin() -> ModuleType:
    load_module("app_info")
    return helper("admin")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Callable[[Answer], Path]]:
    """Serve one connection on a socket as it is told; its path."""
    listeners: list[socket.socket] = []
    ending = threading.Event()

    def serve(answer: Answer) -> Path:
        listener = socket.socket(socket.AF_UNIX)
        listeners.append(listener)
        path = tmp_path / "a.sock"
        listener.bind(str(path))
        listener.listen(8)

        def run() -> None:
            with suppress(OSError), listener.accept()[0] as connection:
                connection.settimeout(HANGS)
                connection.recv(4096)
                answer(connection)

        threading.Thread(target=run, daemon=True).start()
        return path

    yield serve
    ending.set()
    for listener in listeners:
        listener.close()


def says(content: object, *, status: str = "200 OK", raw: bytes | None = None) -> Answer:
    body = json.dumps(content).encode() if raw is None else raw

    def answer(connection: socket.socket) -> None:
        connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)

    return answer


def endless(head: bytes, piece: bytes, pause: float = 0.0) -> Answer:
    """Begin as a process does, and go on for as long as anybody listens."""

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        deadline = time.monotonic() + HANGS
        while time.monotonic() < deadline:
            connection.sendall(piece)
            time.sleep(pause)

    return answer


HEAD = b"HTTP/1.1 200 OK\r\n"
LONG = {name: value for name, value in READY.items() if name != "state"}


def test_what_a_process_says_of_itself(admin: ModuleType, served: Any) -> None:
    # what a later runner says besides is left out
    assert admin.ask(str(served(says({**READY, "more": [1]}))), "/ready") == READY


def test_a_process_that_drains_answers_too(admin: ModuleType, served: Any) -> None:
    draining = READY | {"state": "draining"}
    assert admin.ask(str(served(says(draining, status="503 Service Unavailable"))), "/ready") == draining


def test_all_of_its_status(admin: ModuleType, served: Any) -> None:
    assert admin.ask(str(served(says(STATUS))), "/status") == STATUS


@pytest.mark.parametrize(
    "answer",
    [
        endless(HEAD + b"Content-Length: 100\r\n\r\n", b" ", 0.1),
        endless(HEAD, b"X-Header: 1\r\n", 0.1),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.1),
        endless(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.1),
        endless(HEAD + b"\r\n", b" " * 65536),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
        endless(HEAD + b"Content-Length: 1000000000000\r\n\r\n", b" " * 65536),
        lambda connection: time.sleep(HANGS),
    ],
    ids=[
        "drips a body",
        "drips headers",
        "drips answers",
        "drips chunks",
        "has no end",
        "never begins",
        "is huge",
        "silent",
    ],
)
def test_one_that_takes_its_time_is_not_waited_for(admin: ModuleType, served: Any, answer: Answer) -> None:
    path, begun = served(answer), time.monotonic()
    assert admin.ask(str(path), "/ready", timeout=0.2) is None
    assert time.monotonic() - begun < HANGS / 2


@pytest.mark.parametrize(
    "answer",
    [
        says([READY]),
        says(None),
        says("ready"),
        says(LONG),
        says({**READY, "state": []}),
        says({**READY, "state": "\x1b[2Jready"}),
        says({**READY, "port": "8000"}),
        says({**READY, "port": True}),
        says({**READY, "port": 65536}),
        says({**READY, "pid": -1}),
        says({**READY, "pid": 1.5}),
        says({**READY, "release": "1.0\n1.1"}),
        says({**READY, "release": "x" * 100_000}),
        says({**READY, "generation": {"name": "board"}}),
        says(None, raw=json.dumps(READY).encode().replace(b"4711", b"9" * 400)),
        says(None, raw=json.dumps(READY).encode().replace(b"4711", b"9" * 5000)),
        says(None, raw=b"[" * 60_000),
        says(None, raw=b'{"a":' * 10_000),
        says(None, raw=b"\xff\xfe{}"),
        says(None, raw=b""),
        lambda connection: connection.sendall(b"HTTP/9 what\r\n\r\n"),
        lambda connection: connection.sendall(HEAD + b"Content-Length: 1000\r\n\r\n{"),
        lambda connection: connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n"),
        lambda connection: None,
    ],
)
def test_one_that_says_something_else_does_not_answer(admin: ModuleType, served: Any, answer: Answer) -> None:
    assert admin.ask(str(served(answer)), "/ready", timeout=5) is None


@pytest.mark.parametrize("value", ["x", None, [], "NaN", "Infinity", "-Infinity", "1e400"])
def test_a_time_that_is_none(admin: ModuleType, served: Any, value: object) -> None:
    raw = json.dumps({**STATUS, "uptime_seconds": value}).replace(f'"{value}"', str(value) if value != "x" else '"x"')
    assert admin.ask(str(served(says(None, raw=raw.encode()))), "/status", timeout=5) is None


def test_a_full_queue_is_waited_for_and_no_longer(admin: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "a.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        begun = time.monotonic()
        assert admin.ask(str(path), "/ready", timeout=0.2) is None
        assert 0.2 <= time.monotonic() - begun < HANGS / 2

        def accept() -> None:
            time.sleep(0.1)
            listener.accept()[0].close()
            with listener.accept()[0] as connection:
                connection.recv(4096)
                says(READY)(connection)

        thread = threading.Thread(target=accept)
        thread.start()
        assert admin.ask(str(path), "/ready", timeout=HANGS) == READY
        thread.join()


@pytest.mark.parametrize("what", ["nothing", "a file", "a FIFO", "a directory", "a link", "a long name"])
def test_what_is_no_socket_does_not_answer(admin: ModuleType, served: Any, tmp_path: Path, what: str) -> None:
    path = tmp_path / ("x" * 120 if what == "a long name" else "b.sock")
    match what:
        case "a file":
            path.write_text(json.dumps(READY))
        case "a FIFO":
            os.mkfifo(path)
        case "a directory":
            path.mkdir()
        case "a link":  # to another service's socket of this host
            path.symlink_to(served(says(READY)))
    assert admin.ask(str(path), "/ready", timeout=5) is None


# ---- A page of the application ----


def test_a_page_may_be_larger_than_what_the_admin_socket_says(admin: ModuleType, served: Any) -> None:
    page = b"x" * 5_000_000
    assert admin.get(str(served(says(None, raw=page))), "/", 20) == (200, page)


def test_a_page_has_an_end(admin: ModuleType, served: Any) -> None:
    with pytest.raises(OSError, match="too large"):
        admin.get(str(served(endless(HEAD + b"\r\n", b"x" * 65536))), "/", HANGS, limit=1 << 20)


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a directory to another account")
def test_a_socket_of_another_account_is_no_answer(admin: ModuleType, served: Callable[[Answer], Path]) -> None:
    """The application put a link to it where its own socket had just been seen."""
    path = served(says(READY))
    assert admin.ask(str(path), "/ready") is not None, "the control"
    path.unlink()
    path = served(says(READY))
    os.chown(path.parent, 65534, 65534)
    assert admin.ask(str(path), "/ready") is None
    with pytest.raises(ConnectionRefusedError, match="is a socket of another account"):
        admin.get(str(path), "/ready", 5)
