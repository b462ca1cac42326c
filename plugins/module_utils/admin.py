"""Ask a process of the application on a Unix socket.

What is asked belongs to the application, which may have been broken into: it has one deadline and a limit for the whole of its
answer, and what it says is taken for an answer only if it is one.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.module_utils.root import POLL_SECONDS

# Bytes of a whole answer: of a page of the application, and of one of its admin socket, which are under 1 KB.
PAGE_LIMIT = 64 << 20
ADMIN_LIMIT = 64 << 10
PIECE = 64 << 10


def is_word(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and 0 < len(value) <= 200


def is_number(value: object) -> bool:
    """Whether it is a number that can be counted with: JSON has others (NaN, Infinity, and whole ones of any length)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63


def is_count(value: object) -> bool:
    return isinstance(value, int) and is_number(value) and value >= 0


# What the admin socket answers (eyewall.admin), and how each of it is known.
READY: dict[str, Callable[[Any], bool]] = {
    "state": lambda value: value in ("starting", "ready", "draining", "drained"),
    "release": is_word,
    "generation": is_word,
    "port": lambda value: is_count(value) and value < 65536,
    "pid": is_count,
}
ANSWERS: dict[str, dict[str, Callable[[Any], bool]]] = {
    "/ready": READY,
    "/drain": READY,
    "/status": READY
    | {"uptime_seconds": is_number}
    | dict.fromkeys(
        ("connections", "websockets", "requests", "requests_in_flight", "open_files", "open_files_limit"), is_count
    ),
}


class _Socket(socket.socket):
    """A Unix socket with a deadline for all that is done with it, and a limit for all that comes from it."""

    def __init__(self, deadline: float, limit: int) -> None:
        super().__init__(socket.AF_UNIX)
        self.deadline, self.left = deadline, limit

    def hurry(self) -> None:
        """Let the next step take no longer than there is time."""
        if (seconds := self.deadline - time.monotonic()) <= 0:
            raise TimeoutError("timed out")
        self.settimeout(seconds)

    def connect(self, path: Any) -> None:
        # the directory is the application's: a link there could lead to any socket of this host
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise ConnectionRefusedError(f"{path} is no socket")
        self.hurry()
        while True:
            try:
                super().connect(path)
                break
            except BlockingIOError:  # its queue is full (unix(7)), which no timeout waits for
                time.sleep(POLL_SECONDS)
                self.hurry()
        # and whoever may write there may have put a link in its place since
        _, uid, _ = struct.unpack("3i", self.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
        if uid != Path(path).parent.stat().st_uid:
            raise ConnectionRefusedError(f"{path} is a socket of another account")

    def sendall(self, data: Any, *flags: int) -> None:
        self.hurry()
        super().sendall(data, *flags)

    def recv_into(self, buffer: Any, *more: int) -> int:
        self.hurry()
        number = super().recv_into(buffer, *more)
        self.left -= number
        if self.left < 0:
            raise OSError("the answer is too large")
        return number


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, seconds: float, limit: int) -> None:
        super().__init__("localhost")
        self.path, self.seconds, self.limit = path, seconds, limit

    def connect(self) -> None:
        self.sock = _Socket(time.monotonic() + self.seconds, self.limit)
        self.sock.connect(self.path)


def get(
    path: str, what: str, timeout: float, host: str = "localhost", *, method: str = "GET", limit: int = PAGE_LIMIT
) -> tuple[int, bytes]:
    """Status and body of the answer to `method` (GET) and `what` on the socket `path`, the whole of it within `timeout` seconds.

    `host` is the name that is asked for (the Host header). Raises OSError or http.client.HTTPException where none comes.
    """
    connection = _UnixConnection(path, timeout, limit)
    try:
        connection.request(method, what, headers={"Host": host})
        response = connection.getresponse()
        body = bytearray()
        # in pieces: the memory for one is taken at once, and who answers says how long the whole is
        while piece := response.read(PIECE):
            body += piece
        if response.length:
            raise http.client.IncompleteRead(bytes(body), response.length)
        return response.status, bytes(body)
    finally:
        connection.close()


def ask(path: str, what: str, timeout: float = 2.0, method: str = "GET") -> dict[str, Any] | None:
    """The answer to `what` (as in `/status`) on the admin socket `path`; None where none comes in `timeout` seconds.

    None, too, for anything that is not what the runner answers.
    """
    try:
        answer = json.loads(get(path, what, timeout, method=method, limit=ADMIN_LIMIT)[1])
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    if not isinstance(answer, dict):
        return None
    known = {name: answer.get(name) for name in ANSWERS[what]}
    return known if all(is_so(known[name]) for name, is_so in ANSWERS[what].items()) else None
