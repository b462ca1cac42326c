"""A Tornado application as a WSGI application (PEP 3333), for hosts that take nothing else.

For gunicorn::

    gunicorn --threads 8 'eyewall.wsgi:make("board:make_app")'

and for a server that wants a variable::

    app = WSGIApplication(make_app)

Handlers run on an event loop, one for each process of the WSGI server, in a thread of its own; so
coroutines, locks and background tasks work as they do under Tornado's server. The server's threads wait
for their answers. A handler that blocks holds up all of them, as it does under Tornado's server.

What no WSGI server can give is refused with status 501: WebSockets, and the connection itself (``detach``).
"""

import asyncio
import logging
import math
import os
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import IO, TYPE_CHECKING, Any, Self, cast
from urllib.parse import quote, unquote_to_bytes
from wsgiref.util import is_hop_by_hop

from tornado.escape import native_str
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError
from tornado.routing import Router, RuleRouter
from tornado.web import Application, HTTPError
from tornado.websocket import WebSocketHandler

from eyewall.arguments import LOOPBACK
from eyewall.bodies import answerer, streams
from eyewall.context import request_id
from eyewall.importer import build, find
from eyewall.proxy_headers import ProxyHeaders

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

log = logging.getLogger(__name__)

CHUNK = 64 * 1024  # bytes of a body that are read at once, as tornado.http1connection does
MAX_BODY = 100 * 1024 * 1024  # bytes, what Tornado's server takes by default
TIMEOUT = 60.0  # seconds
NO_WEBSOCKETS = "This server cannot open WebSockets: it speaks WSGI."
NO_CONNECTION = "A WSGI server does not give its connections away."


def make(target: str, **options: Any) -> "WSGIApplication":
    """Import ``package.module:factory``; `options` are those of `WSGIApplication`.

    Raises `eyewall.errors.Refusal`.
    """
    return WSGIApplication(find(target), name=target, **options)


class WSGIApplication:
    """A WSGI application that answers with a Tornado application.

    `application` is the `Application` or its factory, which may be a coroutine function. The factory is called
    at once. Each process that was forked afterwards (gunicorn's ``--preload``) calls it again with its first
    request, because a loop and what hangs on it do not survive a fork.

    `trusted`: addresses or networks of the proxies whose headers are believed, as for the runner. A peer without
    an address (a Unix socket's) counts as 0.0.0.0, as in Tornado.

    `timeout`: seconds that a handler may take until the next piece of its answer. The clients of one that takes
    longer get status 503, or a connection that breaks off; its thread is free again.

    `max_body_size`: bytes that a request's body may have, unless the handler sets another limit; `max_buffered_body`:
    bytes of one that the handler does not stream (0: no other limit).
    """

    def __init__(
        self,
        application: Any,
        *,
        name: str = "application",
        trusted: Iterable[str] = LOOPBACK,
        timeout: float = TIMEOUT,
        max_body_size: int = MAX_BODY,
        max_buffered_body: int = 0,
    ) -> None:
        self._made_from = application
        self._name = name
        self._proxies = ProxyHeaders(trusted)
        self._timeout = timeout
        self._max_body_size = max_body_size
        self._max_buffered_body = max_buffered_body
        self._lock = threading.Lock()
        # By pid. A forked process leaves its parent's alone: closing a copy of an epoll would change the original.
        self._homes: dict[int, _Home] = {}
        self._home()

    def __call__(self, environ: dict[str, Any], start_response: "StartResponse") -> Iterable[bytes]:
        """Answer a request, in a thread of the WSGI server."""
        try:
            request = _Request.read(environ, self._proxies)
        except HTTPInputError as error:
            return _refuse(start_response, 400, "Bad Request", str(error))
        except _Refused as refused:
            return _refuse(start_response, *refused.answer)
        home = self._home(serving=True)
        exchange = _Exchange(home, request, self._max_body_size, self._max_buffered_body, self._timeout)
        home.loop.call_soon_threadsafe(exchange.start)
        return exchange.begin(start_response)

    def start(self) -> asyncio.AbstractEventLoop:
        """Turn this process's loop, which the first request would do otherwise; return it."""
        return self._home(serving=True).loop

    def _home(self, serving: bool = False) -> "_Home":
        with self._lock:
            home = self._homes.get(os.getpid())
            if home is None:
                loop = asyncio.new_event_loop()
                try:
                    application = loop.run_until_complete(build(self._made_from, self._name))
                except BaseException:
                    loop.close()
                    raise
                for path in sorted(_websockets(application)):
                    log.warning("%s: %s is a WebSocket, and is answered with 501 under WSGI", self._name, path)
                home = self._homes[os.getpid()] = _Home(application, loop)
            if serving and home.thread is None:
                # Not before: a process that is to fork has no thread.
                home.thread = threading.Thread(target=home.run, name="eyewall.wsgi", daemon=True)
                home.thread.start()
            return home


@dataclass
class _Home:
    """Where the requests of one process are answered."""

    application: Application
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread | None = None

    def run(self) -> None:
        """Turn the loop. What stops a process under Tornado's server stops one request here."""
        while True:
            try:
                return self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):
                log.exception("A handler or task raised what ends a process")


@dataclass
class _Context:
    """What Tornado asks a connection for."""

    remote_ip: str
    protocol: str


@dataclass
class _Request:
    line: RequestStartLine
    headers: HTTPHeaders
    body: IO[bytes]
    length: float  # of the body in bytes; inf: until it ends
    context: _Context
    identity: str

    @classmethod
    def read(cls, environ: Mapping[str, Any], proxies: ProxyHeaders) -> Self:
        """Read a request's head. Raises `HTTPInputError`, `_Refused`."""
        headers = HTTPHeaders()
        for key, value in environ.items():
            if key.startswith("HTTP_"):
                headers.add(key[5:].replace("_", "-"), value)
            elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
                headers.add(key.replace("_", "-"), value)
        peer = environ.get("REMOTE_ADDR") or "0.0.0.0"  # noqa: S104 - as tornado.httpserver names it
        context = _Context(peer, environ["wsgi.url_scheme"])
        identity = None
        if proxies.trusts(peer):
            context.remote_ip = proxies.client(headers) or peer
            context.protocol = proxies.scheme(headers) or context.protocol
            identity = proxies.request_id(headers)
        line = RequestStartLine(environ["REQUEST_METHOD"], _uri(environ), environ["SERVER_PROTOCOL"])
        return cls(
            line, headers, environ["wsgi.input"], _length(headers, environ), context, identity or secrets.token_hex(12)
        )


def _uri(environ: Mapping[str, Any]) -> str:
    """Return what the client asked for, as it wrote it if the server tells.

    WSGI has only the decoded path, in which ``%2F`` is a slash; gunicorn adds ``RAW_URI``, uWSGI and mod_wsgi
    ``REQUEST_URI``. That is not believed if a middleware has changed the path.
    """
    # PEP 3333, "Unicode Issues": these strings are bytes, written as latin-1.
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
    raw: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if unquote_to_bytes(raw.partition("?")[0]) == path and raw:
        return raw
    query = environ.get("QUERY_STRING")
    return (quote(path) or "/") + (f"?{query}" if query else "")


def _length(headers: HTTPHeaders, environ: Mapping[str, Any]) -> float:
    if "Transfer-Encoding" in headers:
        # With a server that does not say so, to read to the end may be to read for ever.
        if environ.get("wsgi.input_terminated"):
            return math.inf
        raise _Refused(411, "Length Required", "This server needs a Content-Length.")
    text = headers.get("Content-Length", "0")
    if not text.isascii() or not text.isdigit():
        raise HTTPInputError(f"Only integer Content-Length is allowed: {text}")
    return int(text)


def _websockets(router: object) -> Iterator[str]:
    """Yield the patterns of all WebSocket handlers of an application or router."""
    if isinstance(router, Application):
        router = router.default_router
    for rule in router.rules if isinstance(router, RuleRouter) else ():
        if isinstance(rule.target, type) and issubclass(rule.target, WebSocketHandler):
            pattern = getattr(rule.matcher, "regex", None)
            yield pattern.pattern if pattern else repr(rule.matcher)
        elif isinstance(rule.target, Router):
            yield from _websockets(rule.target)


def _opens_websocket(delegate: object) -> bool:
    """Say whether routing has ended at a WebSocket's handler."""
    return issubclass(getattr(answerer(delegate), "handler_class", object), WebSocketHandler)


def _refuse(start_response: "StartResponse", status: int, reason: str, sentence: str) -> list[bytes]:
    body = f"{sentence}\n".encode()
    head = [("Content-Type", "text/plain; charset=UTF-8"), ("Content-Length", str(len(body)))]
    start_response(f"{status} {reason}", head)
    return [body]


@dataclass
class _Head:
    status: str
    headers: list[tuple[str, str]]


class _Refused(Exception):  # noqa: N818 - a decision
    def __init__(self, status: int, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.answer = (status, reason, sentence)


_END = object()


class _Exchange(HTTPConnection):
    """One request and its answer.

    The loop gives orders, one after the other: read a piece of the body, send a head, send a piece, end. The
    server's thread carries them out and reports back. What is under "loop" runs in the loop's thread only, and what
    is under "thread" in the server's.
    """

    def __init__(
        self, home: _Home, request: _Request, max_body_size: int, max_buffered_body: int, timeout: float
    ) -> None:
        self.context = request.context
        self._home = home
        self._request = request
        self._timeout = timeout
        self._orders: SimpleQueue[object] = SimpleQueue()
        # loop
        self._max_body_size = max_body_size
        self._max_buffered_body = max_buffered_body
        self._received = 0  # bytes of the body
        self._complete = False  # the request is
        self._closed = False  # nothing can be sent any more: the answer is complete, or the client is gone
        self._left: int | None = None  # bytes of the answer until its Content-Length
        self._unsent: deque[asyncio.Future[None]] = deque()
        self._reading: asyncio.Future[bytes] | None = None
        self._close_callback: Callable[[], None] | None = None
        # thread
        self._taken = 0  # pieces of the answer that the loop does not know to be sent
        self._ended = False

    # loop: the request

    def start(self) -> None:
        self._task = self._home.loop.create_task(self.converse())

    async def converse(self) -> None:
        """Do with the request what `HTTP1Connection` does with one that it reads."""
        request_id.set(self._request.identity)
        delegate = self._home.application.start_request(None, self)
        try:
            await self._receive(delegate)
        except _Refused as refused:
            self._give_up(delegate, refused)
        except HTTPInputError as error:
            self._give_up(delegate, _Refused(400, "Bad Request", str(error)))
        except StreamClosedError:
            delegate.on_connection_close()
        except Exception:
            log.exception("Uncaught exception in %s %s", self._request.line.method, self._request.line.path)
            self._give_up(delegate, _Refused(500, "Internal Server Error", "Internal Server Error"))

    async def _receive(self, delegate: HTTPMessageDelegate) -> None:
        waiting = delegate.headers_received(self._request.line, self._request.headers)
        if waiting is not None:
            await waiting
        if _opens_websocket(delegate):
            raise _Refused(501, "Not Implemented", NO_WEBSOCKETS)
        if self._max_buffered_body and not streams(delegate):
            self._max_body_size = self._max_buffered_body
        length = self._request.length
        while not self._closed and self._received < length:
            if length < math.inf:
                self._limit(length)
            chunk = await self._read()
            if not chunk:
                break
            self._received += len(chunk)
            self._limit(self._received)
            waiting = delegate.data_received(chunk)
            if waiting is not None:
                await waiting
        if self._closed:
            raise StreamClosedError
        if self._received < length < math.inf:
            raise HTTPInputError(f"The body ended after {self._received} of {length} bytes")
        self._complete = True
        delegate.finish()

    def _limit(self, size: float) -> None:
        if size > self._max_body_size:
            raise _Refused(413, "Content Too Large", f"At most {self._max_body_size} bytes are accepted.")

    async def _read(self) -> bytes:
        self._reading = self._home.loop.create_future()
        self._orders.put(int(min(CHUNK, self._request.length - self._received)))
        return await self._reading

    def _was_read(self, chunk: bytes) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(chunk)

    def _give_up(self, delegate: HTTPMessageDelegate, refused: _Refused) -> None:
        if not self._closed:
            self._closed = True
            self._orders.put(refused)
        delegate.on_connection_close()

    # loop: the answer, as Tornado's handlers give it to a connection

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> "asyncio.Future[None]":
        line = cast(ResponseStartLine, start_line)
        if line.code < 200:
            self._keep_connection()
        if self._request.line.method == "HEAD" or line.code in (204, 304):
            self._left = 0
        elif "Content-Length" in headers:
            self._left = int(headers["Content-Length"])
        listed = [(native_str(name), native_str(value)) for name, value in headers.get_all()]
        if not self._closed:
            # The connection is the server's, and so are the headers about it (PEP 3333, "Other HTTP Features").
            kept = [(name, value) for name, value in listed if not is_hop_by_hop(name)]
            self._orders.put(_Head(f"{line.code} {line.reason}", kept))
        return self.write(chunk or b"")

    def write(self, chunk: bytes) -> "asyncio.Future[None]":
        sent: asyncio.Future[None] = self._home.loop.create_future()
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                self._break_off("Tried to write more data than Content-Length")
        if self._closed:
            sent.set_exception(StreamClosedError())
            sent.exception()  # a handler that does not wait for it is not to blame
        else:
            self._unsent.append(sent)
            self._orders.put(chunk)
        return sent

    def finish(self) -> None:
        if self._left and not self._closed:
            self._break_off(f"Tried to write {self._left} bytes less than Content-Length")
        if not self._closed:
            self._closed = True
            self._orders.put(_END)
        # Nothing follows that a handler might hold back.
        self._was_sent(len(self._unsent))

    def _break_off(self, problem: str) -> None:
        """End an answer whose length is not what its head says; the client must not take it for complete."""
        error = HTTPOutputError(problem)
        if not self._closed:
            self._closed = True
            self._orders.put(error)
        raise error

    def _was_sent(self, chunks: int) -> None:
        for _ in range(min(chunks, len(self._unsent))):
            sent = self._unsent.popleft()
            if not sent.done():
                sent.set_result(None)

    def _client_gone(self) -> None:
        """Tell the handler."""
        if self._closed:
            return
        self._closed = True
        for waiting in (self._reading, *self._unsent):
            if waiting is not None and not waiting.done():
                waiting.set_exception(StreamClosedError())
                waiting.exception()
        self._unsent.clear()
        # Before that, the delegate is told, by `converse`.
        if self._complete and self._close_callback is not None:
            self._close_callback()

    # loop: what else handlers ask a connection for

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        self._close_callback = callback

    def set_max_body_size(self, size: int) -> None:
        self._max_body_size = size

    def set_body_timeout(self, seconds: float) -> None:
        """Do nothing: how long a client may take is the server's to limit."""

    def detach(self) -> None:
        self._keep_connection()
        raise HTTPError(501, NO_CONNECTION)

    def _keep_connection(self) -> None:
        # Not left to the handler: one that detaches, or has sent its head, writes no error page.
        if not self._closed:
            self._closed = True
            self._orders.put(_Refused(501, "Not Implemented", NO_CONNECTION))

    # thread

    def begin(self, start_response: "StartResponse") -> Iterable[bytes]:
        """Carry out the loop's orders up to the answer's head."""
        try:
            order = self._next_order()
            if isinstance(order, _Head):
                start_response(order.status, order.headers)
                return self
        except BaseException:
            self.close()
            raise
        self._ended = True
        if isinstance(order, _Refused):
            return _refuse(start_response, *order.answer)
        raise RuntimeError(f"an answer begins with {order!r}")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        order = _END if self._ended else self._next_order()
        if isinstance(order, bytes):
            self._taken += 1
            return order
        self._ended = True
        if isinstance(order, Exception):
            raise order
        raise StopIteration

    def close(self) -> None:
        """End; the server calls this in any case (PEP 3333), and early if the client is gone."""
        if not self._ended:
            self._ended = True
            self._tell(self._client_gone)

    def _next_order(self) -> object:
        """Wait for the next order; carry out those to read, which are numbers of bytes."""
        while True:
            if self._taken and self._orders.empty():
                self._tell(self._was_sent, self._taken)
                self._taken = 0
            try:
                order = self._orders.get(timeout=self._timeout)
            except Empty:
                return self._late()
            if not isinstance(order, int):
                return order
            self._tell(self._was_read, self._request.body.read(order))

    def _late(self) -> Exception:
        log.error(
            "%s %s: nothing came for %g s; the request is given up",
            self._request.line.method, self._request.line.path, self._timeout,
        )  # fmt: skip
        self._tell(self._client_gone)
        return _Refused(503, "Service Unavailable", f"The answer took longer than {self._timeout:g} s.")

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        self._home.loop.call_soon_threadsafe(what, *arguments)
