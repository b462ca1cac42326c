"""A client that sends a request byte for byte, and hides nothing of the answer."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Answer:
    """What came back for a request, byte for byte where it matters; ``status`` 0 is a connection that ended without one."""

    status: int
    reason: str = ""
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    continued: bool = False

    def all(self, name: str) -> list[str]:
        return [value for given, value in self.headers if given.lower() == name.lower()]


def ask(port: int, *parts: bytes, head: bool = False, timeout: float = 20) -> Answer:
    """Send the parts of a request as they are, and read the answer to its end."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as client:
        with contextlib.suppress(ConnectionError):  # it may have been answered already
            for part in parts:
                client.sendall(part)
        with client.makefile("rb") as stream:
            try:
                return read(stream, head=head)
            except ConnectionError:
                return Answer(0)


def read(stream: Any, *, head: bool = False) -> Answer:
    continued = False
    while True:
        line = stream.readline().decode("latin-1").rstrip("\r\n")
        if not line:
            return Answer(0, continued=continued)
        if not line.startswith("HTTP/1."):  # HTTP/0.9 has nothing but a body
            return Answer(9, body=line.encode("latin-1") + stream.read())
        _, status, *reason = line.split(" ", 2)
        headers: list[tuple[str, str]] = []
        while name := stream.readline().decode("latin-1").rstrip("\r\n"):
            key, _, value = name.partition(":")
            headers.append((key, value.strip()))
        if status != "100":
            break
        continued = True
    answer = Answer(int(status), "".join(reason), headers, b"", continued)
    if head or int(status) in (204, 304):
        return answer
    if "chunked" in answer.all("Transfer-Encoding"):
        body = b"".join(chunks(stream))
    elif length := answer.all("Content-Length"):
        body = stream.read(int(length[0]))
    else:
        body = stream.read()
    return Answer(int(status), "".join(reason), headers, body, continued)


def chunks(stream: Any) -> Iterator[bytes]:
    while size := int(stream.readline().split(b";")[0] or b"0", 16):
        yield stream.read(size)
        stream.readline()
    while stream.readline().strip():
        pass
