"""HTTP/1.1 and WebSockets on plain sockets: a client that does nothing that it was not told to do.

A library's client opens, keeps, closes and retries as it sees fit. Here the caller knows at each request whether its
connection is new or was used before, and after a failure, whether any byte of an answer had come.
"""

import asyncio
import base64
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10  # opcodes, RFC 6455, section 11.8
NORMAL, GOING_AWAY, SERVICE_RESTART = 1000, 1001, 1012  # IANA's registry of WebSocket close codes


class LostError(Exception):
    """No right answer came; the message says what came instead. `host` is the X-Host of whoever said so, if any did."""

    def __init__(self, message: str, host: str = "") -> None:
        super().__init__(message)
        self.host = host


class ClosedBeforeAnswerError(LostError):
    """A connection that had answered before was closed before any byte of this answer came."""


@dataclass(frozen=True)
class Answer:
    """Status, headers by lower-case name, body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Connection:
    """One connection to `host` and `port`: opened once, used until one side closes it."""

    def __init__(self, host: str, port: int) -> None:
        self._at = (host, port)
        self._socket: socket.socket | None = None
        self._buffer = bytearray()
        self._used = False

    async def open(self) -> None:
        """Connect. Raises `OSError`."""
        family = socket.AF_INET6 if ":" in self._at[0] else socket.AF_INET
        self._used = False
        self._buffer.clear()
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(self._socket, self._at)

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as this side knows.

        Asked before a request is sent, as browsers do (RFC 9112, section 9.5: a client should watch for a close): what
        was closed earlier has lost nothing.
        """
        if self._socket is None:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # closed, or it says what nobody asked for

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def abort(self) -> None:
        """End it in both directions at once; whoever waits for it to say something gets an `EOFError`."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the other side was faster
                self._socket.shutdown(socket.SHUT_RDWR)

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] = b"",
        length: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request and return its answer; a `body` in pieces has `length` bytes in all.

        The connection is closed when the answer says ``Connection: close``. Raises `LostError`.
        """
        size = len(body) if isinstance(body, bytes) else length
        every = {"Host": f"{self._at[0]}:{self._at[1]}"} | (headers or {})
        if method != "GET":
            every["Content-Length"] = str(size)
        head = "".join(f"{name}: {value}\r\n" for name, value in every.items())
        start = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode()
        answer_headers: dict[str, str] = {}
        try:
            if isinstance(body, bytes):
                await self._send(start + body)
            else:
                await self._send(start)
                async for piece in body:
                    await self._send(piece)
            status, answer_headers = await self._head()
            content = b"" if status == 101 else await self._body(answer_headers)
        except (OSError, EOFError) as error:
            if self._used and not self._buffer and not answer_headers:
                raise ClosedBeforeAnswerError(f"closed before any byte of the answer: {error!r}") from None
            raise LostError(repr(error), answer_headers.get("x-host", "")) from None
        except (ValueError, IndexError):
            raise LostError("an answer that is not HTTP/1.1", answer_headers.get("x-host", "")) from None
        self._used = True
        if answer_headers.get("connection", "").lower() == "close":
            self.close()
        return Answer(status, answer_headers, content)

    async def _head(self) -> tuple[int, dict[str, str]]:
        lines = (await self._until(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = (line.partition(":") for line in lines[1:])
        return int(lines[0].split(" ")[1]), {name.lower(): value.strip() for name, _, value in pairs}

    async def _body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return await self._exactly(int(headers["content-length"]))
        if headers.get("transfer-encoding", "").lower() != "chunked":
            # Its end would be the connection's end, and nobody could tell a cut answer from a whole one.
            raise EOFError("an answer without a length")
        body = b""
        while size := int(await self._until(b"\r\n"), 16):
            body += await self._exactly(size)
            await self._exactly(2)
        await self._until(b"\r\n")
        return body

    async def _send(self, data: bytes) -> None:
        assert self._socket
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def _receive(self) -> None:
        # recv gives what arrived before a reset, and only then the reset: that is what "any byte" hangs on.
        assert self._socket
        data = await asyncio.get_running_loop().sock_recv(self._socket, 65536)
        if not data:
            raise EOFError(f"closed after {len(self._buffer)} bytes of what was to come")
        self._buffer += data

    async def _until(self, end: bytes) -> bytes:
        while (at := self._buffer.find(end)) < 0:
            await self._receive()
        found = bytes(self._buffer[:at])
        del self._buffer[: at + len(end)]
        return found

    async def _exactly(self, size: int) -> bytes:
        while len(self._buffer) < size:
            await self._receive()
        found = bytes(self._buffer[:size])
        del self._buffer[:size]
        return found

    # WebSockets: as much of RFC 6455 as short messages need

    async def upgrade(self, path: str) -> Answer:
        """Turn this connection into a WebSocket. Raises `LostError`."""
        key = base64.b64encode(os.urandom(16)).decode()
        headers = {
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": key,
            "Sec-WebSocket-Version": "13",
        }
        answer = await self.ask("GET", path, headers=headers)
        if answer.status != 101:
            raise LostError(f"status {answer.status} instead of 101", answer.headers.get("x-host", ""))
        return answer

    async def send_frame(self, opcode: int, payload: bytes) -> None:
        """Send a frame of up to 125 bytes, or not: why it cannot be sent is what `receive_frame` hears."""
        # Masked with zeros: a client must mask, but not well where no stranger chooses the payload.
        with contextlib.suppress(OSError):
            await self._send(bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    async def receive_frame(self) -> tuple[int, bytes]:
        """Return the next frame's opcode and payload. Raises `OSError` or `EOFError` when cut."""
        first, size = await self._exactly(2)
        if size == 126:
            size = struct.unpack(">H", await self._exactly(2))[0]
        return first & 0x0F, await self._exactly(size)
