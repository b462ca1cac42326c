"""The process that makes the traffic: ``python -m proof.client`` with its orders as JSON; `proof.traffic` starts it.

It writes one line per request to a CSV file, runs until its stdin is closed, and then answers for every request that is
still under way. What becomes of a request is its fate:

- ``answered``: status 200 and the right content, or the right echo.
- ``resent``: the same, after a GET on a connection that was used before was sent once more, on a new one, because the
  old one was closed before any byte of the answer came. RFC 9112, section 9.3.1, lets a client do that for idempotent
  methods, and browsers do. A POST in its place is lost.
  Over HTTP/2 any request is sent once more that the server says it did not process, by GOAWAY or REFUSED_STREAM (RFC 9113,
  section 8.7).
- ``told``: a WebSocket that was closed with 1012 or 1001, or a message that had no echo by then and had one on the next
  WebSocket.
- ``lost``: anything else. Refused, reset, cut short, another status, other bytes, or nothing within `TIMEOUT`.
"""

import asyncio
import csv
import gzip
import hashlib
import itertools
import json
import operator
import re
import ssl
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import brotli
from wsproto.events import CloseConnection, Ping, TextMessage
from wsproto.frame_protocol import CloseReason

from proof.http import Answer, ClosedBeforeAnswerError, Connection, LostError
from proof.http2 import Shared, UnprocessedError
from proof.report import FIELDS, Request
from proof.transport import TLSTransport, Transport, tls_context
from proof.websocket import WebSocketConnection

# Seconds; a machine whose CPU is emulated has `Client.slowness` times as long.
TIMEOUT = 30.0  # for one request, whatever it is
QUICK_CLIENTS = 4  # per quick kind and door
SLOW_CLIENTS = 2
HTTP2_CLIENTS = 2  # per door with TLS, one connection each
SLOW_SECONDS = 2.0  # a slow answer, an upload, a download
SLOW_PAUSE = 0.1
UPLOAD = bytes(range(256)) * 256
UPLOAD_PIECES = 20
DOWNLOAD_BYTES = 200_000
PAGE_PAUSE = 0.25
WEBSOCKETS = 4
MESSAGE_PAUSE = 0.25
RECONNECT_PAUSE = 0.1  # after a WebSocket that could not be had
START_PAUSE = (
    0.005  # between two clients' first requests: QEMU's own network queues two new connections, and may reset a third
)
FLUSH_PAUSE = 0.2

DECODERS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "br": brotli.decompress, "": bytes}
VERSIONED = re.compile(rb'(?:src|href)="(/[^"]+\?v=([0-9a-f]{128}))"')
DOWNLOAD_SHA256 = hashlib.sha256(b"".join(b"%07d\n" % n for n in range(DOWNLOAD_BYTES // 8))).hexdigest()

IDENTITY = ("release", "host", "pid")  # in the headers X-…, and in what a WebSocket says

Check = Callable[[Answer], None]


def wanted(found: object, expected: object, what: str) -> None:
    """Raise `LostError` unless the two are the same."""
    if found != expected:
        raise LostError(f"wrong {what}: {str(found)[:80]!r} instead of {str(expected)[:80]!r}")


def says(**expected: object) -> Check:
    """Return a check that the JSON of an answer has these values."""

    def check(answer: Answer) -> None:
        try:
            content = json.loads(answer.body)
            found = {name: content[name] for name in expected}
        except (ValueError, KeyError, TypeError):
            raise LostError(f"wrong content: {answer.body[:80]!r}") from None
        wanted(found, expected, "content")

    return check


def is_download(answer: Answer) -> None:
    wanted(hashlib.sha256(answer.body).hexdigest(), DOWNLOAD_SHA256, "SHA-256")


def has_version(version: str) -> Check:
    """Return a check that the decoded body has this SHA-512."""

    def check(answer: Answer) -> None:
        try:
            body = DECODERS[answer.headers.get("content-encoding", "")](answer.body)
        except (KeyError, OSError, EOFError, brotli.error) as error:
            raise LostError(f"an encoding that cannot be read: {error!r}") from None
        wanted(hashlib.sha512(body).hexdigest(), version, "SHA-512")

    return check


def names_assets(answer: Answer) -> None:
    if not VERSIONED.search(answer.body):
        raise LostError(f"the page names no versioned file: {answer.body[:80]!r}")


@dataclass(frozen=True)
class Door:
    """A front door: its name, where it is, and with TLS, whom it trusts, by protocol."""

    name: str
    host: str
    port: int
    tls: dict[str, ssl.SSLContext] = field(default_factory=dict)

    @classmethod
    def at(cls, name: str, url: str, ca: str = "") -> "Door":
        """The door of a base URL; `ca` is the file of the CA that https:// is checked with."""
        parts = urlsplit(url)
        if parts.scheme == "http":
            return cls(name, parts.hostname or "", parts.port or 80)
        contexts = {protocol: tls_context(ca, [protocol]) for protocol in ("http/1.1", "h2")}
        return cls(name, parts.hostname or "", parts.port or 443, contexts)

    def transport(self, protocol: str = "http/1.1") -> Transport:
        return TLSTransport(self.host, self.port, self.tls[protocol]) if self.tls else Transport(self.host, self.port)

    def connection(self) -> Connection:
        return Connection(self.transport())

    def websocket(self) -> WebSocketConnection:
        return WebSocketConnection(self.transport())

    def shared(self) -> Shared:
        """A connection of HTTP/2, which browsers have over TLS alone."""
        return Shared(lambda: self.transport("h2"))


@dataclass(frozen=True)
class Ask:
    """What is asked, and what the answer must be."""

    kind: str
    method: str
    path: str
    check: Check
    body: bytes | Callable[[], AsyncIterator[bytes]] = b""  # in pieces anew for each time that it is sent
    length: int | None = None
    headers: dict[str, str] = field(default_factory=dict)

    def sent(self) -> bytes | AsyncIterator[bytes]:
        return self.body if isinstance(self.body, bytes) else self.body()


def echo(kind: str, method: str, path: str, number: int) -> Ask:
    """Ask for a number back, with GET in the path, with POST as a body of some hundred bytes."""
    if method == "GET":
        return Ask(kind, method, path, says(text=str(number)))
    body = str(number).encode() * 100
    return Ask(kind, method, path, says(length=len(body), sha256=hashlib.sha256(body).hexdigest()), body)


def upload(kind: str) -> Ask:
    """Send some KB that trickle in, and ask for their hash."""

    async def trickle() -> AsyncIterator[bytes]:
        size = len(UPLOAD) // UPLOAD_PIECES
        for start in range(0, len(UPLOAD), size):
            yield UPLOAD[start : start + size]
            await asyncio.sleep(SLOW_SECONDS / UPLOAD_PIECES)

    check = says(length=len(UPLOAD), sha256=hashlib.sha256(UPLOAD).hexdigest())
    return Ask(kind, "POST", "/upload", check, trickle, len(UPLOAD))


class Client:
    """Every kind of traffic; `record` takes each request when its fate is known.

    Every pause and time limit is `slowness` times as long. What a slow request takes is not.
    """

    def __init__(self, record: Callable[[Request], None], slowness: float = 1.0) -> None:
        self.record = record
        self.slowness = slowness
        self.timeout = TIMEOUT * slowness
        self.stopping = False

    async def run(self, doors: list[Door], rate: float) -> None:
        """Make traffic until `stopping`; `rate` is that of all quick requests together, per second."""
        period = len(doors) * 4 * QUICK_CLIENTS / rate
        loops: list[Coroutine[Any, Any, None]] = []
        for door in doors:
            for number in range(QUICK_CLIENTS):
                delay = period * number / QUICK_CLIENTS
                for method in ("GET", "POST"):
                    loops += [self._quick(door, method, keep, period, delay) for keep in (True, False)]
            for number in range(SLOW_CLIENTS):
                delay = SLOW_SECONDS * number / SLOW_CLIENTS
                loops += [self._slow(door, method, delay) for method in ("GET", "POST")]
            loops += [self._upload(door), self._download(door), self._pages(door)]
            if door.tls:
                loops += self._http2(door, period)
            loops += [
                WebSocket(self, door).run(MESSAGE_PAUSE * self.slowness * number / WEBSOCKETS)
                for number in range(WEBSOCKETS)
            ]
        async with asyncio.TaskGroup() as group:  # an error in one of them is a mistake here, and ends all
            for number, loop in enumerate(loops):
                group.create_task(self._later(START_PAUSE * self.slowness * number, loop))

    async def _later(self, seconds: float, loop: Coroutine[Any, Any, None]) -> None:
        await asyncio.sleep(seconds)
        await loop

    async def _paced(self, period: float, delay: float) -> AsyncIterator[int]:
        """Count up, one number per `period`; what a slow answer delayed is not made up for."""
        await asyncio.sleep(delay)
        due = time.monotonic()
        for number in itertools.count():
            if self.stopping:
                return
            yield number
            due = max(due + period, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    async def asked(self, door: Door, connection: Connection | Shared, ask: Ask) -> Answer | None:
        """Ask once, with the one repetition that the RFC allows; record the fate; return a right answer."""
        start, begun = time.time(), time.monotonic()
        fate, detail, answer, host = "answered", "", None, ""
        try:
            async with asyncio.timeout(self.timeout):
                if not connection.usable:
                    connection.close()
                    await connection.open()
                try:
                    answer = await connection.ask(ask.method, ask.path, ask.sent(), ask.length, ask.headers)
                except (ClosedBeforeAnswerError, UnprocessedError) as error:
                    if ask.method != "GET" and isinstance(error, ClosedBeforeAnswerError):
                        raise
                    fate, detail = "resent", str(error)
                    connection.close()
                    await connection.open()
                    answer = await connection.ask(ask.method, ask.path, ask.sent(), ask.length, ask.headers)
            wanted(answer.status, 200, "status")
            ask.check(answer)
        except (OSError, LostError) as error:  # TimeoutError is an OSError
            connection.close()
            fate, host = "lost", getattr(error, "host", "")
            detail = str(error) if isinstance(error, LostError) else repr(error)
            if isinstance(error, TimeoutError):
                detail = f"no answer in {self.timeout:g} s"
        headers = answer.headers if answer else {"x-host": host}
        who = {name: headers.get(f"x-{name}", "") for name in IDENTITY}
        self.record(Request(ask.kind, door.name, start, time.monotonic() - begun, fate, detail=detail, **who))
        return None if fate == "lost" else answer

    async def _quick(self, door: Door, method: str, keep: bool, period: float, delay: float) -> None:
        connection = door.connection()
        headers = {} if keep else {"Connection": "close"}
        async for number in self._paced(period, delay):
            ask = echo(f"{method} {'kept' if keep else 'new'}", method, f"/echo?text={number}", number)
            await self.asked(door, connection, replace(ask, headers=headers))
            if not keep:
                connection.close()
        connection.close()

    def _http2(self, door: Door, period: float) -> list[Coroutine[Any, Any, None]]:
        """What a few browsers do on one connection each, all of it at the same time."""
        loops: list[Coroutine[Any, Any, None]] = []
        for number in range(HTTP2_CLIENTS):
            shared, delay = door.shared(), period * number / HTTP2_CLIENTS
            loops += [self._quick_http2(door, shared, method, period, delay) for method in ("GET", "POST")]
            loops += [self._slow_http2(door, shared), self._upload_http2(door, shared)]
        return loops

    async def _quick_http2(self, door: Door, shared: Shared, method: str, period: float, delay: float) -> None:
        async for number in self._paced(period, delay):
            await self.asked(door, shared, echo(f"{method} HTTP/2", method, f"/echo?text={number}", number))

    async def _slow_http2(self, door: Door, shared: Shared) -> None:
        async for number in self._paced(SLOW_PAUSE * self.slowness, 0):
            path = f"/slow?seconds={SLOW_SECONDS:g}&text={number}"
            await self.asked(door, shared, echo("slow HTTP/2", "POST", path, number))

    async def _upload_http2(self, door: Door, shared: Shared) -> None:
        async for _ in self._paced(SLOW_PAUSE * self.slowness, 0):
            await self.asked(door, shared, upload("upload HTTP/2"))

    async def _slow(self, door: Door, method: str, delay: float) -> None:
        async for number in self._paced(SLOW_PAUSE * self.slowness, delay):
            path = f"/slow?seconds={SLOW_SECONDS:g}&text={number}"
            await self._once(door, echo(f"{method} slow", method, path, number))

    async def _upload(self, door: Door) -> None:
        async for _ in self._paced(SLOW_PAUSE * self.slowness, 0):
            await self._once(door, upload("upload"))

    async def _download(self, door: Door) -> None:
        path = f"/download?bytes={DOWNLOAD_BYTES}&seconds={SLOW_SECONDS:g}"
        async for _ in self._paced(SLOW_PAUSE * self.slowness, 0):
            await self._once(door, Ask("download", "GET", path, is_download))

    async def _once(self, door: Door, ask: Ask) -> None:
        """Ask on a new connection: what is cut while it is slow must not pass as the end of a kept connection."""
        connection = door.connection()
        await self.asked(door, connection, ask)
        connection.close()

    async def _pages(self, door: Door) -> None:
        """Get the page, then every file that it names, in one encoding after the other."""
        connection = door.connection()
        async for number in self._paced(PAGE_PAUSE * self.slowness, 0):
            page = await self.asked(door, connection, Ask("page", "GET", "/", names_assets))
            encoding = list(DECODERS)[number % len(DECODERS)]
            headers = {"Accept-Encoding": encoding} if encoding else {}
            for url, version in VERSIONED.findall(page.body if page else b""):
                check = has_version(version.decode())
                await self.asked(door, connection, Ask("asset", "GET", url.decode(), check, headers=headers))
        connection.close()


class WebSocket:
    """One user's WebSocket: a numbered message every `MESSAGE_PAUSE`, and the next connection when it is told to go.

    Each message is a request of the kind ``WebSocket message``. Each connection is one of the kind ``WebSocket``: its
    seconds are those until it was open (until it ended, if it is lost), its fate is how it ended.
    """

    def __init__(self, client: Client, door: Door) -> None:
        self._client = client
        self._door = door
        self._numbers = itertools.count()
        self._waiting: dict[str, tuple[float, float]] = {}  # message without echo: when it was sent, on both clocks
        self._resent: set[str] = set()

    async def run(self, delay: float) -> None:
        await asyncio.sleep(delay)
        while self._waiting or not self._client.stopping:
            start, begun = time.time(), time.monotonic()
            connection, headers, detail = self._door.websocket(), dict[str, str](), ""
            try:
                async with asyncio.timeout(self._client.timeout):
                    headers = await connection.open("/live")
                seconds = time.monotonic() - begun
                fate = await self._talk(connection)
            except (OSError, EOFError, LostError) as error:
                seconds, fate = time.monotonic() - begun, "lost"
                detail = f"{'ended without being told' if headers else 'not opened'}: {error!r}"
                self._lose(detail)
            connection.close()
            who = {name: headers.get(f"x-{name}", "") for name in IDENTITY}
            self._client.record(Request("WebSocket", self._door.name, start, seconds, fate, detail=detail, **who))
            if fate == "lost":
                await asyncio.sleep(RECONNECT_PAUSE * self._client.slowness)

    async def _talk(self, connection: WebSocketConnection) -> str:
        """Send and receive until one side says goodbye; return the connection's fate, or raise what cut it."""
        self._resent = set(self._waiting)
        speaking = asyncio.create_task(self._speak(connection))
        try:
            while True:
                event = await connection.receive()
                if isinstance(event, TextMessage):
                    self._heard(event.data)
                elif isinstance(event, Ping):
                    await connection.send(event.response())
                elif isinstance(event, CloseConnection):
                    if event.code in (CloseReason.GOING_AWAY, CloseReason.SERVICE_RESTART):
                        await connection.send(event.response())
                        return "told"
                    if event.code == CloseReason.NORMAL_CLOSURE and self._client.stopping and not self._waiting:
                        return "answered"
                    raise LostError(f"closed with {int(event.code)}")
        finally:
            speaking.cancel()

    async def _speak(self, connection: WebSocketConnection) -> None:
        """Send messages, those without echo again, until traffic stops and every echo is there; then say goodbye."""
        for message in list(self._waiting):
            await connection.send(TextMessage(message))
        while self._waiting or not self._client.stopping:
            if not self._client.stopping:
                message = str(next(self._numbers))
                self._waiting[message] = (time.time(), time.monotonic())
                await connection.send(TextMessage(message))
            await asyncio.sleep(MESSAGE_PAUSE * self._client.slowness)
            if any(time.monotonic() - begun > self._client.timeout for _, begun in self._waiting.values()):
                connection.abort()
        await connection.send(CloseConnection(CloseReason.NORMAL_CLOSURE))
        await asyncio.sleep(self._client.timeout)
        connection.abort()

    def _heard(self, text: str) -> None:
        try:
            echo = json.loads(text)
            start, begun = self._waiting.pop(echo["message"])
            who = {name: str(echo[name]) for name in IDENTITY}
        except (ValueError, KeyError, TypeError):
            raise LostError(f"wrong echo: {text[:80]!r}") from None
        fate = "told" if echo["message"] in self._resent else "answered"
        self._client.record(Request("WebSocket message", self._door.name, start, time.monotonic() - begun, fate, **who))

    def _lose(self, detail: str) -> None:
        for start, begun in self._waiting.values():
            seconds = time.monotonic() - begun
            self._client.record(Request("WebSocket message", self._door.name, start, seconds, "lost", detail=detail))
        self._waiting.clear()


async def make_traffic(orders: dict[str, Any], file: TextIO) -> None:
    """Make traffic until stdin is closed; `orders` are the doors, CA, rate and slowness of `proof.traffic.Traffic`."""
    writer = csv.writer(file)
    writer.writerow(FIELDS)
    row = operator.attrgetter(*FIELDS)  # dataclasses.astuple would copy every value deeply
    client = Client(lambda request: writer.writerow(row(request)), orders["slowness"])
    doors = [Door.at(name, url, orders["ca"]) for name, url in orders["doors"].items()]
    traffic = asyncio.create_task(client.run(doors, orders["rate"]))
    told_to_stop = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    while not traffic.done():
        await asyncio.wait([traffic], timeout=FLUSH_PAUSE)
        file.flush()
        client.stopping = told_to_stop.done()
    await traffic


def main() -> None:
    orders = json.loads(sys.argv[1])
    with Path(orders["file"]).open("w", newline="", encoding="utf-8") as file:
        asyncio.run(make_traffic(orders, file))


if __name__ == "__main__":
    main()
