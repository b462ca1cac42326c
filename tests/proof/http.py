"""Requests and their answers: a client that does nothing that it was not told to do.

A library's client opens, keeps, closes and retries as it sees fit. Here the caller knows at each request whether its
connection is new or was used before, and after a failure, whether any byte of an answer had come. So sockets are our
own (`proof.transport`), and libraries do the framing alone: h11 for HTTP/1.1, wsproto for `proof.websocket`.
"""

from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import h11

from proof.transport import Transport

NOT_HTTP = "an answer that is not HTTP/1.1"


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


def headers_of(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """Return the headers of one of h11's events, or wsproto's, by lower-case name."""
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in pairs}


class Framing(Protocol):
    """What becomes of requests and answers on one connection, in bytes; it sees no socket. `Http1` is one."""

    headers: dict[str, str]  # of the answer under way, as soon as they are there

    @property
    def incomplete(self) -> int:
        """How many bytes came of the part that is not whole yet, the head or the body."""

    def start(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        """Return the bytes of a request's head."""

    def piece(self, data: bytes) -> bytes:
        """Return the bytes of a piece of its body."""

    def end(self) -> bytes:
        """Return the bytes of its end."""

    def feed(self, data: bytes) -> Answer | None:
        """Take what came; return the answer when it is whole. Raises `LostError`."""

    def again(self) -> bool:
        """Be ready for another request on this connection; whether there may be one."""


class Http1:
    """The framing of HTTP/1.1."""

    def __init__(self) -> None:
        self._h11 = h11.Connection(h11.CLIENT)
        self._clear()

    def _clear(self) -> None:
        self._status = 0
        self.headers: dict[str, str] = {}
        self._body = bytearray()

    @property
    def incomplete(self) -> int:
        return len(self._body) if self._status else len(self._h11.trailing_data[0])

    def start(self, method: str, path: str, headers: dict[str, str]) -> bytes:
        self._clear()
        return self._h11.send(h11.Request(method=method, target=path, headers=list(headers.items()))) or b""

    def piece(self, data: bytes) -> bytes:
        return (self._h11.send(h11.Data(data)) or b"") if data else b""

    def end(self) -> bytes:
        return self._h11.send(h11.EndOfMessage()) or b""

    def feed(self, data: bytes) -> Answer | None:
        try:
            self._h11.receive_data(data)
            while (event := self._h11.next_event()) is not h11.NEED_DATA:
                if isinstance(event, h11.Response):
                    self._head(event)
                elif isinstance(event, h11.Data):
                    self._body += event.data
                elif isinstance(event, h11.EndOfMessage):
                    return Answer(self._status, self.headers, bytes(self._body))
        except h11.RemoteProtocolError as error:
            raise LostError(f"{NOT_HTTP}: {error}", self.headers.get("x-host", "")) from None
        return None

    def _head(self, event: h11.Response) -> None:
        self._status, self.headers = event.status_code, headers_of(event.headers.raw_items())
        if not self.headers.keys() & {"content-length", "transfer-encoding"}:
            # Its end would be the connection's end, and nobody could tell a cut answer from a whole one.
            raise LostError("an answer without a length", self.headers.get("x-host", ""))

    def again(self) -> bool:
        if (self._h11.our_state, self._h11.their_state) != (h11.DONE, h11.DONE) or self._h11.trailing_data[0]:
            return False
        self._h11.start_next_cycle()
        return True


class Connection:
    """One connection on a `transport`: opened once, used until one side closes it."""

    def __init__(self, transport: Transport, framing: Callable[[], Framing] = Http1) -> None:
        self._transport = transport
        self._new_framing = framing
        self._used = False

    async def open(self) -> None:
        """Connect. Raises `OSError`."""
        self._used = False
        self._framing = self._new_framing()
        await self._transport.open()

    @property
    def usable(self) -> bool:
        return self._transport.usable

    def close(self) -> None:
        self._transport.close()

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] = b"",
        length: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request and return its answer; a `body` in pieces has `length` bytes in all.

        The connection is closed when no other request may follow the answer. Raises `LostError`.
        """
        every = {"Host": self._transport.authority} | (headers or {})
        if method != "GET":
            every["Content-Length"] = str(len(body) if isinstance(body, bytes) else length)
        self._came = False
        try:
            await self._request(self._framing.start(method, path, every), body)
            answer = await self._answer()
        except (OSError, EOFError) as error:
            if self._used and not self._came:
                raise ClosedBeforeAnswerError(f"closed before any byte of the answer: {error!r}") from None
            raise LostError(repr(error), self._framing.headers.get("x-host", "")) from None
        self._used = True
        if not self._framing.again():
            self.close()
        return answer

    async def _request(self, start: bytes, body: bytes | AsyncIterator[bytes]) -> None:
        if isinstance(body, bytes):
            await self._transport.send(start + self._framing.piece(body) + self._framing.end())
            return
        await self._transport.send(start)
        async for piece in body:
            await self._transport.send(self._framing.piece(piece))
        if end := self._framing.end():
            await self._transport.send(end)

    async def _answer(self) -> Answer:
        while data := await self._transport.receive():
            self._came = True
            if answer := self._framing.feed(data):
                return answer
        raise EOFError(f"closed after {self._framing.incomplete} bytes of what was to come")
