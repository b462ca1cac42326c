"""Ask a process of the application on a Unix socket."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Any


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


def get(path: str, what: str, timeout: float, host: str = "localhost") -> tuple[int, bytes]:
    """Status and body of the answer to GET `what` on the socket `path`, within `timeout` seconds for each step of it.

    `host` is the name that is asked for (the Host header). Raises OSError or http.client.HTTPException where none comes.
    """
    connection = _UnixConnection(path, timeout)
    try:
        connection.request("GET", what, headers={"Host": host})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def ask(path: str, what: str, timeout: float = 2.0) -> dict[str, Any] | None:
    """The JSON answer of `what` (as in `/status`) on the admin socket `path`; None where nobody answers in `timeout` seconds."""
    try:
        answer: dict[str, Any] = json.loads(get(path, what, timeout)[1])
    except (OSError, http.client.HTTPException, ValueError):
        return None
    return answer
