"""Ask a process of the application on its admin socket."""

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


def ask(path: str, what: str, timeout: float = 2.0) -> dict[str, Any] | None:
    """The JSON answer of `what` (as in `/status`) on the socket `path`; None where nobody answers in `timeout` seconds."""
    connection = _UnixConnection(path, timeout)
    try:
        connection.request("GET", what)
        answer: dict[str, Any] = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError):
        return None
    else:
        return answer
    finally:
        connection.close()
