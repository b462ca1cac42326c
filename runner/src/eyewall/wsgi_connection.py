"""A request on its way between two threads: the event loop's, where handlers run, and one of the WSGI server's, which waits."""

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, cast
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
from tornado.web import Application, HTTPError
from tornado.websocket import WebSocketHandler

from eyewall.bodies import answerer, streams
from eyewall.context import request_id
from eyewall.wsgi_request import Refused, Request, refuse

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

log = logging.getLogger(__name__)

CHUNK = 64 * 1024  # bytes of a body that are read at once, as tornado.http1connection does
NO_WEBSOCKETS = "This server cannot open WebSockets: it speaks WSGI."
NO_CONNECTION = "A WSGI server does not give its connections away."
END = object()


@dataclass
class Head:
    """The order to send a head."""

    status: str
    headers: list[tuple[str, str]]


class WSGIConnection(HTTPConnection):
    """A request and its answer, as Tornado's handlers have them: all of it runs in the loop's thread.

    It gives orders to the thread of the WSGI server, which waits for them (`WSGIResponse`), through a queue: how many bytes of
    the body to read, a `Head`, a piece of the answer, its end or why there is none. What was done comes back by `was_read`,
    `was_sent` and `client_gone`.
    """

    def __init__(
        self,
        application: Application,
        loop: asyncio.AbstractEventLoop,
        request: Request,
        max_body_size: int,
        max_buffered_body: int,
    ) -> None:
        self.context = request.context
        self.request = request
        self.loop = loop
        self.orders: SimpleQueue[object] = SimpleQueue()
        self._application = application
        self._max_body_size = max_body_size
        self._max_buffered_body = max_buffered_body
        self._received = 0  # bytes of the body
        self._complete = False  # the request is
        self._closed = False  # nothing can be sent any more: the answer is complete, or the client is gone
        self._left: int | None = None  # bytes of the answer until its Content-Length
        self._unsent: deque[asyncio.Future[None]] = deque()
        self._reading: asyncio.Future[bytes] | None = None
        self._close_callback: Callable[[], None] | None = None

    # The request

    def start(self) -> None:
        """Begin; the request is read and answered in a task."""
        self._task = self.loop.create_task(self.converse())

    async def converse(self) -> None:
        """Do with the request what `HTTP1Connection` does with one that it reads."""
        request_id.set(self.request.identity)
        delegate = self._application.start_request(None, self)
        try:
            await self._receive(delegate)
        except Refused as refused:
            self._give_up(delegate, refused)
        except HTTPInputError as error:
            self._give_up(delegate, Refused(400, "Bad Request", str(error)))
        except StreamClosedError:
            delegate.on_connection_close()
        except Exception:
            log.exception("Uncaught exception in %s %s", self.request.line.method, self.request.line.path)
            self._give_up(delegate, Refused(500, "Internal Server Error", "Internal Server Error"))

    async def _receive(self, delegate: HTTPMessageDelegate) -> None:
        waiting = delegate.headers_received(self.request.line, self.request.headers)
        if waiting is not None:
            await waiting
        if _opens_websocket(delegate):
            raise Refused(501, "Not Implemented", NO_WEBSOCKETS)
        if self._max_buffered_body and not streams(delegate):
            self._max_body_size = self._max_buffered_body
        length = self.request.length
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
            raise Refused(413, "Content Too Large", f"At most {self._max_body_size} bytes are accepted.")

    async def _read(self) -> bytes:
        self._reading = self.loop.create_future()
        self.orders.put(int(min(CHUNK, self.request.length - self._received)))
        return await self._reading

    def was_read(self, chunk: bytes) -> None:
        """Take a piece of the body, empty at its end."""
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(chunk)

    def _give_up(self, delegate: HTTPMessageDelegate, refused: Refused) -> None:
        if not self._closed:
            self._closed = True
            self.orders.put(refused)
        delegate.on_connection_close()

    # The answer, as Tornado's handlers give it to a connection

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> "asyncio.Future[None]":
        line = cast(ResponseStartLine, start_line)
        if line.code < 200:
            self._keep_connection()
        if self.request.line.method == "HEAD" or line.code in (204, 304):
            self._left = 0
        elif "Content-Length" in headers:
            self._left = int(headers["Content-Length"])
        listed = [(native_str(name), native_str(value)) for name, value in headers.get_all()]
        if not self._closed:
            # The connection is the server's, and so are the headers about it (PEP 3333, "Other HTTP Features").
            kept = [(name, value) for name, value in listed if not is_hop_by_hop(name)]
            self.orders.put(Head(f"{line.code} {line.reason}", kept))
        return self.write(chunk or b"")

    def write(self, chunk: bytes) -> "asyncio.Future[None]":
        sent: asyncio.Future[None] = self.loop.create_future()
        if self._left is not None:
            self._left -= len(chunk)
            if self._left < 0:
                self._break_off("Tried to write more data than Content-Length")
        if self._closed:
            sent.set_exception(StreamClosedError())
            sent.exception()  # a handler that does not wait for it is not to blame
        else:
            self._unsent.append(sent)
            self.orders.put(chunk)
        return sent

    def finish(self) -> None:
        if self._left and not self._closed:
            self._break_off(f"Tried to write {self._left} bytes less than Content-Length")
        if not self._closed:
            self._closed = True
            self.orders.put(END)
        # Nothing follows that a handler might hold back.
        self.was_sent(len(self._unsent))

    def _break_off(self, problem: str) -> None:
        """End an answer whose length is not what its head says; the client must not take it for complete."""
        error = HTTPOutputError(problem)
        if not self._closed:
            self._closed = True
            self.orders.put(error)
        raise error

    def was_sent(self, chunks: int) -> None:
        """Note that the server has so many more pieces of the answer."""
        for _ in range(min(chunks, len(self._unsent))):
            sent = self._unsent.popleft()
            if not sent.done():
                sent.set_result(None)

    def client_gone(self) -> None:
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

    # What else handlers ask a connection for

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
            self.orders.put(Refused(501, "Not Implemented", NO_CONNECTION))


class WSGIResponse:
    """The answer to a WSGI server, which iterates over it (PEP 3333): all of it runs in the server's thread.

    It carries out what a `WSGIConnection` orders, and reports back on the connection's loop. `timeout`: seconds until the next
    order.
    """

    def __init__(self, connection: WSGIConnection, timeout: float) -> None:
        self._connection = connection
        self._timeout = timeout
        self._taken = 0  # pieces of the answer that the loop does not know to be sent
        self._ended = False

    def begin(self, start_response: "StartResponse") -> Iterable[bytes]:
        """Carry out the loop's orders up to the answer's head."""
        try:
            order = self._next_order()
            if isinstance(order, Head):
                start_response(order.status, order.headers)
                return self
        except BaseException:
            self.close()
            raise
        self._ended = True
        if isinstance(order, Refused):
            return refuse(start_response, *order.answer)
        raise RuntimeError(f"an answer begins with {order!r}")

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        order = END if self._ended else self._next_order()
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
            self._tell(self._connection.client_gone)

    def _next_order(self) -> object:
        """Wait for the next order; carry out those to read, which are numbers of bytes."""
        while True:
            if self._taken and self._connection.orders.empty():
                self._tell(self._connection.was_sent, self._taken)
                self._taken = 0
            try:
                order = self._connection.orders.get(timeout=self._timeout)
            except Empty:
                return self._late()
            if not isinstance(order, int):
                return order
            self._tell(self._connection.was_read, self._connection.request.body.read(order))

    def _late(self) -> Exception:
        log.error(
            "%s %s: nothing came for %g s; the request is given up",
            self._connection.request.line.method, self._connection.request.line.path, self._timeout,
        )  # fmt: skip
        self._tell(self._connection.client_gone)
        return Refused(503, "Service Unavailable", f"The answer took longer than {self._timeout:g} s.")

    def _tell(self, what: Callable[..., None], *arguments: Any) -> None:
        self._connection.loop.call_soon_threadsafe(what, *arguments)


def _opens_websocket(delegate: object) -> bool:
    """Say whether routing has ended at a WebSocket's handler."""
    return issubclass(getattr(answerer(delegate), "handler_class", object), WebSocketHandler)
