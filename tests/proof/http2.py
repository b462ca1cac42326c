"""Requests over HTTP/2: many at a time on one connection, each with a fate of its own.

h2 does the framing. What it does not do is to go on after a GOAWAY, which says up to which stream requests were and will be
processed (RFC 9113, section 6.8): so that frame is read here.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Protocol

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import ProtocolError

from proof.http import Answer, ClosedBeforeAnswerError, LostError, headers_of

FRAME_HEAD = 9  # bytes: length (3), type, flags, stream (4)
GOAWAY = 0x7
WINDOW_PAUSE = 0.01  # seconds between two looks at a window that is full


class Wire(Protocol):
    """What HTTP/2 needs of a transport."""

    authority: str

    async def open(self) -> None: ...
    def close(self) -> None: ...
    async def send(self, data: bytes) -> None: ...
    async def receive(self) -> bytes: ...


class UnprocessedError(LostError):
    """A request that the server says it did not process, by GOAWAY or REFUSED_STREAM: any method may be sent again.

    RFC 9113, section 8.7.
    """


@dataclass
class Stream:
    """What came for a request by now."""

    done: "asyncio.Future[Answer]"
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class Http2Connection:
    """One connection, which is used until the server says GOAWAY or closes it."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._streams: dict[int, Stream] = {}
        self._came = b""
        self._answered = 0
        self.leaving = False

    async def open(self) -> None:
        """Connect. Raises `OSError`."""
        await self._wire.open()
        self._h2.initiate_connection()
        await self._flush()
        self._reader = asyncio.create_task(self._read())

    async def close(self) -> None:
        self._reader.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._reader

    async def _flush(self) -> None:
        if data := self._h2.data_to_send():
            await self._wire.send(data)

    async def ask(self, method: str, path: str, body: bytes | AsyncIterator[bytes], headers: dict[str, str]) -> Answer:
        """Send a request and return its answer. Raises `LostError`, or `OSError`."""
        stream = self._h2.get_next_available_stream_id()
        pseudo = [(":method", method), (":authority", self._wire.authority), (":scheme", "https"), (":path", path)]
        every = [*pseudo, *((name.lower(), value) for name, value in headers.items() if name != "Connection")]
        waiting = self._streams[stream] = Stream(asyncio.get_running_loop().create_future())
        try:
            self._h2.send_headers(stream, every, end_stream=method == "GET")
            await self._flush()
            if method != "GET":
                await self._send(stream, body)
            return await waiting.done
        except (ProtocolError, OSError):
            # what cannot be sent any more was reset, or its connection ended: the reader knows by what, or will
            return await waiting.done
        finally:
            self._streams.pop(stream, None)
            if not waiting.done.done() or waiting.done.cancelled():
                with contextlib.suppress(ProtocolError, OSError):
                    self._h2.reset_stream(stream, ErrorCodes.CANCEL)
                    await self._flush()

    async def _send(self, stream: int, body: bytes | AsyncIterator[bytes]) -> None:
        pieces = [body] if isinstance(body, bytes) else body
        if isinstance(pieces, list):
            await self._piece(stream, pieces[0])
        else:
            async for piece in pieces:
                await self._piece(stream, piece)
        self._h2.end_stream(stream)
        await self._flush()

    async def _piece(self, stream: int, data: bytes) -> None:
        while data:
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, len(data))
            if size <= 0:
                await asyncio.sleep(WINDOW_PAUSE)
                continue
            self._h2.send_data(stream, data[:size])
            await self._flush()
            data = data[size:]

    async def _read(self) -> None:
        why: BaseException = EOFError("closed")
        try:
            while data := await self._wire.receive():
                for event in self._events(data):
                    self._take(event)
                await self._flush()
        except (OSError, ProtocolError) as error:
            why = error
        finally:
            self.leaving = True
            for stream in list(self._streams.values()):
                kind = ClosedBeforeAnswerError if self._answered and not stream.status else LostError
                self._fail(stream, kind(f"the connection ended: {why!r}", stream.headers.get("x-host", "")))
            self._wire.close()

    def _events(self, data: bytes) -> list[Event]:
        self._came += data
        events: list[Event] = []
        while len(self._came) >= FRAME_HEAD:
            size = FRAME_HEAD + int.from_bytes(self._came[:3])
            if len(self._came) < size:
                break
            frame, self._came = self._came[:size], self._came[size:]
            if frame[3] == GOAWAY:
                self._goaway(int.from_bytes(frame[FRAME_HEAD : FRAME_HEAD + 4]) & 0x7FFFFFFF)
            else:
                events += self._h2.receive_data(frame)
        return events

    def _goaway(self, last: int) -> None:
        self.leaving = True
        for number, stream in self._streams.items():
            if number > last:
                self._fail(stream, UnprocessedError("GOAWAY before this request"))

    def _take(self, event: Event) -> None:
        stream = self._streams.get(getattr(event, "stream_id", None) or 0)
        if isinstance(event, DataReceived):
            self._h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        if stream is None:
            return
        if isinstance(event, ResponseReceived):
            found = headers_of(event.headers)
            stream.status, stream.headers = int(found[":status"]), found
        elif isinstance(event, DataReceived):
            stream.body += event.data
        elif isinstance(event, StreamEnded):
            self._answered += 1
            if not stream.done.done():
                stream.done.set_result(Answer(stream.status, stream.headers, bytes(stream.body)))
        elif isinstance(event, StreamReset):
            refused = event.error_code == ErrorCodes.REFUSED_STREAM
            text = f"reset with {event.error_code!r}"
            self._fail(stream, UnprocessedError(text) if refused else LostError(text, stream.headers.get("x-host", "")))

    def _fail(self, stream: Stream, error: LostError) -> None:
        if not stream.done.done():
            stream.done.set_exception(error)


class Shared:
    """The connection that the requests of a client share, and the next one when it is told to go: as a browser does it."""

    def __init__(self, wire: Callable[[], Wire]) -> None:
        self._wire = wire
        self._current: Http2Connection | None = None
        self._opening = asyncio.Lock()

    @property
    def usable(self) -> bool:
        return self._current is not None and not self._current.leaving

    async def open(self) -> None:
        """Connect, unless another request has. Raises `OSError`."""
        async with self._opening:
            if not self.usable:
                connection = Http2Connection(self._wire())
                await connection.open()
                self._current = connection

    def close(self) -> None:
        """Nothing: other requests may be on it."""

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | AsyncIterator[bytes] = b"",
        length: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send a request and return its answer. Raises `LostError`, or `OSError`."""
        del length  # frames say where a body ends
        assert self._current
        return await self._current.ask(method, path, body, headers or {})
