"""The seam: with `eyewall.stream`, the only module that knows which HTTP server core is underneath.

`Server` is Tornado's own `HTTPServer` (its HTTP/1 core unchanged) with what a production process needs
of a core: counts, trusted headers, a request id, an accept queue that is emptied, connections that end
with their next answer, WebSockets that can be told. `eyewall.drain`, `eyewall.admin` and
`eyewall.metrics` use only its public methods, so another core needs another `Server` and nothing else.

Tornado's `HTTPServer` is a `Configurable`: its own way to put another class beneath a program that makes
its servers itself. `eyewall.program` puts `ProgramServer` there::

    ProgramServer.defaults = {"place": …, "traffic": …, "proxies": …, "door": …}
    HTTPServer.configure(ProgramServer)

Private names of Tornado that are used here (checked against 6.5 and 6.6): ``TCPServer._sockets``,
``_handlers``, ``_stopped``, ``_pending_sockets``, ``_handle_connection``; ``HTTPServer._connections``;
``HTTP1Connection._disconnect_on_finish``, ``_finish_future``, ``_request_start_line``, ``_request_headers``,
``_response_start_line``, ``_parse_headers``; ``_HandlerDelegate.stream_request_body``, ``_RoutingDelegate.delegate``.
"""

import asyncio
import errno
import logging
import secrets
import socket
import sys
import weakref
from asyncio import Future
from collections import deque
from collections.abc import Awaitable, Iterable, Mapping
from http import HTTPStatus
from itertools import count
from time import perf_counter
from typing import Any, ClassVar, Protocol, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, UnsatisfiableReadError
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from eyewall.answers import for_proxies
from eyewall.bodies import LOOKS, WINDOW, Body, Limits, answerer, declared, streams
from eyewall.children import hide
from eyewall.context import request_id
from eyewall.crowd import FEW, SLICE, Crowd
from eyewall.door import Door
from eyewall.head import split_head
from eyewall.log import log_request
from eyewall.proxies import HEADERS, Proxies
from eyewall.stream import Stream
from eyewall.traffic import NO_ANSWER, Traffic

log = logging.getLogger(__name__)

SERVICE_RESTART = 1012  # IANA's registry of WebSocket close codes
# Bytes of a head: more than a proxy in front passes on, which has something to say of one that is too large. For the core it is
# a connection to be closed, and for nginx then a process that does not answer (502). The role's nginx takes twice 64 KB at most.
HEAD = 192 * 1024
IDLE_CHECKS = 20  # in the time that a connection may be idle
BODY = frozenset(("Content-Length", "Transfer-Encoding"))  # headers that announce one

# An id that is unique across processes for the price of a counter.
_id_prefix = secrets.token_hex(8)
_id_numbers = count(1)


class Server(HTTPServer):
    """Tornado's HTTP server, watched.

    Takes what `HTTPServer` takes, and `traffic` (where to count), `proxies` (whose headers are believed), `door` (what accepts
    connections) and `limits` (of bodies). Whether ``xheaders`` is given or not: headers of the peers in `proxies` are believed,
    of others never. ``trusted_downstream`` is skipped in ``X-Forwarded-For``, as Tornado does.
    """

    # Whether it serves what comes to the process's port; a server that a program made may have sockets of its own alone.
    on_port = True

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        self.traffic: Traffic = kwargs.pop("traffic", None) or Traffic()
        proxies: Proxies = kwargs.pop("proxies", None) or Proxies()
        self.proxies = proxies.skipping(kwargs.get("trusted_downstream") or ())
        self.door: Door = kwargs.pop("door", None) or Door(self.traffic)
        self.limits: Limits = kwargs.pop("limits", None) or Limits()
        self.draining = False
        self.own_sockets: list[socket.socket] = []
        self._listeners: dict[int, socket.socket] = {}
        self.bodies: dict[_Exchange, Body] = {}
        self._watching = False
        self._lingering: set[asyncio.Task[None]] = set()
        self._crowd: Crowd | None = None
        self._exchanges: dict[object, _Exchange] = {}
        # A stream that an application took over (a WebSocket, as a rule) has left _connections.
        self._detached: weakref.WeakKeyDictionary[IOStream, weakref.ref[WebSocketHandler] | None] = (
            weakref.WeakKeyDictionary()
        )
        # Of a server that drains: the WebSockets to be told, so that none of many thousands is looked at twice.
        self._untold: deque[weakref.ref[WebSocketHandler]] = deque()
        kwargs["max_header_size"] = kwargs.get("max_header_size") or HEAD
        super().initialize(*args, **(kwargs | {"xheaders": False}))
        # The core sets a timer for each request and takes it back, a tenth of what a small one costs (measured: /hello).
        # Here they are looked at all together, now and then.
        self._idle_seconds = cast(float, self.conn_params.header_timeout)
        self.conn_params.header_timeout = None
        if isinstance(self.request_callback, Application):
            self.request_callback.settings.setdefault("log_function", log_request)
            for_proxies(self.request_callback)

    # What the rest of eyewall uses

    def open(self, sockets: Iterable[socket.socket]) -> None:
        """Accept connections on `sockets`, more of them with each call, unless the server was stopped before it began."""
        if not self._stopped:
            idle_checks = bool(self._listeners)
            for listener in sockets:
                hide(listener)
                self._listeners[listener.fileno()] = listener
                self._handlers[listener.fileno()] = self.door.add(listener, self._handle_connection)
            if not idle_checks:
                self._close_idle()

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def connections(self) -> int:
        """Open connections, WebSockets and those that linger included."""
        return len(self._connections) + len(self._open_streams()) + len(self._lingering)

    @property
    def websockets(self) -> int:
        """Open WebSockets, those that are closing included."""
        return sum(1 for stream in self._open_streams() if self._detached[stream] is not None)

    def stop(self) -> None:
        """Take the connections that wait in the accept queue, then stop listening.

        A connection in the queue has completed its handshake: its client has sent a request, or will.
        Closing the socket resets it (unless net.ipv4.tcp_migrate_req moves it to another listener);
        measured: 121 of 41,477 requests lost in 25 handovers without this, 0 of 36,855 with it. So that next
        to nothing can join the queue between the last accept and the close, nothing is served in between.
        """
        if self._stopped:
            return
        self._stopped = True
        taken: list[tuple[socket.socket, Any]] = []
        for fd, listener in self._listeners.items():
            self._handlers.pop(fd)()
            try:
                while True:
                    try:
                        taken.append(listener.accept())
                    except ConnectionAbortedError:
                        continue
            except BlockingIOError:
                pass
            except OSError as error:
                if error.errno != errno.EINVAL:  # another server of this process has left the port
                    log.warning("connections left in the accept queue: %s", error)
            if self.draining:
                self.door.leave(listener)
            else:
                listener.close()
        self._listeners.clear()
        for connection, address in taken:
            self._handle_connection(connection, address)

    def end_keep_alive(self) -> None:
        """Let every connection end with its next answer, which says ``Connection: close``.

        No idle connection is closed: its client may be sending a request this moment, which would be lost.
        HTTP1Connection decides when a request's headers arrive whether it is the last; the requests
        that are past that point are told here, if the headers of their answer have yet to be written. After
        that it is too late to say so, and a close that was not announced is the loss we avoid: such a
        connection has one more request.
        """
        self.draining = True
        self._untold.extend(reference for reference in self._detached.values() if reference is not None)
        self.conn_params.no_keep_alive = True
        for exchange in self._exchanges.values():
            exchange.end_keep_alive()

    def close_websockets(self, limit: int) -> int:
        """Send a close frame (1012, service restart) to at most `limit` WebSockets that had none; for a drain.

        Returns how many were told. Tornado closes a socket whose client does not answer the frame in 5 s.
        """
        told = 0
        while told < limit and self._untold:
            handler = self._untold.popleft()()
            # Tornado's WebSocketHandler.close() drops ws_connection: those without one are closing.
            if handler is not None and handler.ws_connection is not None:
                handler.close(SERVICE_RESTART, "service restart")
                told += 1
        return told

    @property
    def websockets_untold(self) -> int:
        """WebSockets that the drain has sent no close frame to; some of them may have gone by themselves."""
        return len(self._untold)

    async def cut(self) -> None:
        """Close every connection, whatever it is doing, `SLICE` of them in each turn of the loop."""
        streams = [*(connection.stream for connection in self._connections), *self._open_streams()]
        for number, stream in enumerate(streams, 1):
            stream.close()
            if not number % SLICE:
                await asyncio.sleep(0)

    def _close_idle(self) -> None:
        """Close each connection that has sent no whole head of a request for ``idle_connection_timeout``; again later."""
        long_ago = perf_counter() - self._idle_seconds
        idle = (one for one in self._exchanges.values() if not one.started and one.ended < long_ago)
        self._close_some(list(idle), long_ago)
        if self._exchanges or not self._stopped:
            asyncio.get_running_loop().call_later(self._idle_seconds / IDLE_CHECKS, self._close_idle)

    def _close_some(self, idle: "list[_Exchange]", long_ago: float) -> None:
        for exchange in idle[:SLICE]:
            stream = cast(IOStream | None, exchange.connection.stream)
            if stream is not None and not exchange.started and exchange.ended < long_ago:  # still
                stream.close()
        if rest := idle[SLICE:]:
            asyncio.get_running_loop().call_soon(self._close_some, rest, long_ago)

    def watch(self, exchange: "_Exchange", body: Body) -> None:
        """Watch a body until it is complete: it must not come more slowly than the limit."""
        self.bodies[exchange] = body
        if not self._watching and self.limits.rate:
            self._watching = True
            asyncio.get_running_loop().call_later(WINDOW / LOOKS, self._watch_bodies)

    def _watch_bodies(self) -> None:
        now = perf_counter()
        for exchange, body in list(self.bodies.items()):
            stream = cast(IOStream | None, exchange.connection.stream)
            if stream is None or not stream.reading():
                body.forgive(now)  # the application has yet to take what came
            elif body.is_slow(self.limits.rate, now):
                exchange.refuse(HTTPStatus.REQUEST_TIMEOUT, f"less than {self.limits.rate} bytes of a body per second")
        self._watching = bool(self.bodies)
        if self._watching:
            asyncio.get_running_loop().call_later(WINDOW / LOOKS, self._watch_bodies)

    # What Tornado's core calls

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        if self.ssl_options is not None:
            super()._handle_connection(connection, address)
        else:
            stream = Stream(
                connection,
                max_buffer_size=self.max_buffer_size,
                read_chunk_size=self.read_chunk_size,
                lingering=self._lingering,
            )
            if len(self._connections) + len(self._detached) >= FEW:
                self._crowd = self._crowd or Crowd()
                stream.io_loop = cast(Any, self._crowd)
            self.handle_stream(stream, address)

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Get ready for the next request of a connection; the one before has ended."""
        exchange = self._exchanges.get(server_conn)
        if exchange is None:
            exchange = self._exchanges[server_conn] = _Exchange(self, cast(Any, request_conn).context)
        else:
            exchange.end()
        exchange.connection = cast(HTTP1Connection, request_conn)
        setattr(request_conn, "_parse_headers", split_head)  # noqa: B010 - mypy wants no assignment to a method
        exchange.delegate = super().start_request(server_conn, request_conn)
        return exchange

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        exchange = self._exchanges.pop(server_conn, None)
        if exchange is None:
            return
        self.traffic.malformed += exchange.malformed
        exchange.end()
        if cast(IOStream | None, exchange.connection.stream) is None:
            handler = exchange.websocket()
            stream = cast(HTTP1ServerConnection, server_conn).stream
            reference = self._detached[stream] = None if handler is None else weakref.ref(handler)
            if self.draining and reference is not None:
                self._untold.append(reference)

    def _open_streams(self) -> list[IOStream]:
        # The application may hold on to a stream that was closed, so weak references are not enough.
        for stream in [stream for stream in self._detached if stream.closed()]:
            del self._detached[stream]
        return list(self._detached)


class Place(Protocol):
    """Where the servers of a program listen; `eyewall.program.Program` is one."""

    def sockets(self, port: int) -> list[socket.socket]: ...

    def add(self, server: "ProgramServer", sockets: Iterable[socket.socket]) -> None: ...

    def stopped(self) -> None: ...


class ProgramServer(Server):
    """A `Server` that a program made: `place` decides where it listens, whatever the program says."""

    on_port = False

    # What the runner gives to each of them, a program's own subclasses of `HTTPServer` included (see `adopt_subclasses`).
    defaults: ClassVar[Mapping[str, Any]] = {}

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        kwargs = {**self.defaults, **kwargs}
        self._place: Place = kwargs.pop("place")
        super().initialize(*args, **kwargs)

    def show(self, sockets: Iterable[socket.socket]) -> None:
        """Let the program see `sockets` where Tornado has those that it listens on; some programs ask for their names."""
        for one in sockets:
            self._sockets[id(one)] = one

    def stop(self) -> None:
        super().stop()
        self._sockets.clear()
        self.own_sockets.clear()
        self.on_port = False
        self._place.stopped()

    def begin_again(self) -> None:
        """Be a server that was not stopped: a program may stop one, and let it listen later."""
        self._stopped = False

    def listen(self, port: int, *_: Any, **__: Any) -> None:
        self.add_sockets(self._place.sockets(port))

    def bind(self, port: int, *_: Any, **__: Any) -> None:
        self._pending_sockets.extend(self._place.sockets(port))

    def add_sockets(self, sockets: Iterable[socket.socket]) -> None:
        self._place.add(self, sockets)


def adopt_subclasses() -> None:
    """Let each class that is derived from `HTTPServer` from now on be derived from `ProgramServer`.

    ``HTTPServer.configure`` replaces `HTTPServer` itself and no subclass (``tornado.util.Configurable.__new__``).
    """

    def adopt(subclass: type[Any], /, **kwargs: Any) -> None:
        super(HTTPServer, cast(Any, subclass)).__init_subclass__(**kwargs)
        subclass.__bases__ = tuple(ProgramServer if base is HTTPServer else base for base in subclass.__bases__)

    setattr(HTTPServer, "__init_subclass__", classmethod(adopt))  # noqa: B010 - mypy wants no assignment to a method


class Servers(list[Server]):
    """The servers of a process, as one, and the sockets of its port, which they share.

    A factory has one server, a program may make several, stop some, and make others.
    """

    def __init__(self) -> None:
        super().__init__()
        self._sockets: list[socket.socket] = []

    @property
    def has_port(self) -> bool:
        return bool(self._sockets)

    def take_port(self, sockets: Iterable[socket.socket]) -> None:
        """Share the listening `sockets` of the port."""
        self._sockets = list(sockets)

    def open(self, server: Server) -> None:
        """Let a server accept, on its own sockets and, if it is on the port, on a copy of the port's (dup(2)): one queue."""
        server.open([*server.own_sockets, *([one.dup() for one in self._sockets] if server.on_port else [])])

    @property
    def on_port(self) -> bool:
        """Whether a server accepts what comes to the port."""
        return any(server.on_port and not server.stopped for server in self)

    def leave_port(self) -> None:
        """Let go of the port; what waits in its queue has been taken by the last server that stopped."""
        while self._sockets:
            self._sockets.pop().close()

    @property
    def connections(self) -> int:
        return sum(server.connections for server in self)

    @property
    def websockets(self) -> int:
        return sum(server.websockets for server in self)

    @property
    def websockets_untold(self) -> int:
        return sum(server.websockets_untold for server in self)

    def end_keep_alive(self) -> None:
        for server in self:
            server.end_keep_alive()

    def stop(self) -> None:
        for server in self:
            server.stop()
        self.leave_port()

    def close_websockets(self, limit: int) -> int:
        told = 0
        for server in self:
            told += server.close_websockets(limit - told)
        return told

    async def cut(self) -> None:
        for server in self:
            await server.cut()


class _Exchange(HTTPMessageDelegate):
    """The request that a connection is at: one object per connection, used for one request after the other.

    This is the hot path: it runs for every request. Tornado tells nobody that an answer is complete, but
    it asks for the next request then; so a request is counted when the next one is asked for, or when
    the connection ends. No method of the core is wrapped.
    """

    __slots__ = (
        "connection", "context", "delegate", "ended", "forwarded", "has_body", "method", "server", "started", "trusted",
    )  # fmt: skip

    connection: HTTP1Connection
    delegate: HTTPMessageDelegate

    def __init__(self, server: Server, context: Any) -> None:
        self.server = server
        self.context = context
        self.trusted = server.proxies.trusts(context.remote_ip)
        self.forwarded = False
        self.has_body = False
        self.method = ""
        # perf_counter() when the request's headers were read; 0: none since the last answer.
        self.started = 0.0
        # perf_counter() of the last answer's end, or of the connection's begin
        self.ended = perf_counter()

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        server = self.server
        self.started = perf_counter()
        self.method = cast(RequestStartLine, start_line).method
        server.traffic.in_flight += 1
        # One pass in C over the names, instead of five lookups.
        believed = self.trusted and not HEADERS.isdisjoint(headers)
        identity = self.believe(headers) if believed else None
        # The handler's task is made from here, and so inherits it.
        request_id.set(identity or f"{_id_prefix}{next(_id_numbers):08x}")
        if server.draining:
            if _upgrades(headers):
                _close_unless_upgraded(self.connection)
            else:
                _forget_keep_alive(headers)
        if BODY.isdisjoint(headers) or headers.get("Content-Length") == "0":
            return self.delegate.headers_received(start_line, headers)
        self.has_body = True
        self._set_unread(True)
        # The handler of a stream begins now; any other is found now, and begins when the body is complete.
        prepared = self.delegate.headers_received(start_line, headers)
        self.expect(headers)
        return prepared

    def believe(self, headers: HTTPHeaders) -> str | None:
        """Take over what a trusted peer says; return its id of the request, if any."""
        proxies, context = self.server.proxies, self.context
        self.forwarded = True
        client = proxies.client(headers)
        if client is not None:
            context.remote_ip = client
        scheme = proxies.scheme(headers)
        if scheme is not None:
            context.protocol = scheme
        return proxies.request_id(headers)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        if (body := self.server.bodies.get(self)) is not None:
            body.received += len(chunk)
            if body.memory and body.received > body.memory:
                self.refuse_size(body.received)
                return None
        return self.delegate.data_received(chunk)

    def finish(self) -> None:
        if self.has_body:
            self.forget_body()
        self.delegate.finish()

    def on_connection_close(self) -> None:
        self.delegate.on_connection_close()

    def expect(self, headers: HTTPHeaders) -> None:
        """Refuse a body that is too large to be held, before it is read; watch any other while it comes."""
        server, client = self.server, self.context.remote_ip
        memory = 0
        if (most := server.limits.most) and not self.streams():
            length = declared(headers.get("Content-Length", ""))
            memory = most if length is None else length
            if memory > most:
                self.refuse_size(memory)
                return
            held = sum(body.memory for body in server.bodies.values() if body.client == client)
            if held + memory > server.limits.share:
                self.refuse(HTTPStatus.TOO_MANY_REQUESTS, f"{held} bytes are held already for bodies of this client")
                return
        server.watch(self, Body(client, memory, self.started))

    def streams(self) -> bool:
        """Tell whether the application takes the body as it comes, and not as a whole."""
        # a function gets complete requests
        return isinstance(self.server.request_callback, HTTPServerConnectionDelegate) and streams(self.delegate)

    def refuse_size(self, size: int) -> None:
        self.refuse(
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            f"{size} bytes of a body are more than --max-buffered-body ({self.server.limits.most}), "
            "and what answers does not stream it (tornado.web.stream_request_body)",
        )

    def refuse(self, status: HTTPStatus, why: str) -> None:
        """Answer instead of the application, unless it has begun to, and end the connection."""
        connection, line = self.connection, self.connection._request_start_line
        self.server.bodies.pop(self, None)
        log.warning("%d %s %s (%s): %s", status, self.method, line and line.path, self.context.remote_ip, why)
        if connection._response_start_line is not None:
            connection.close()
            return
        text = b"" if self.method == "HEAD" else f"{status.value} {status.phrase}\n".encode()
        headers = HTTPHeaders({"Content-Type": "text/plain", "Content-Length": str(len(text)), "Connection": "close"})
        # What is left of the body is read and thrown away by the core, until the answer is sent.
        connection.set_max_body_size(sys.maxsize)
        connection.write_headers(ResponseStartLine("HTTP/1.1", status, status.phrase), headers, text)
        connection.finish()

    def forget_body(self) -> None:
        self.has_body = False
        self.server.bodies.pop(self, None)
        self._set_unread(False)

    def _set_unread(self, unread: bool) -> None:
        if isinstance(stream := self.connection.stream, Stream):
            stream.unread = unread

    @property
    def malformed(self) -> bool:
        """Whether the connection ended with what is no head of a request.

        The core closes its end of it then, which it does to no connection that waits for a request; or, where a head is too
        long, the stream closes itself.
        """
        connection = self.connection
        return not self.started and (
            connection._finish_future.done() or isinstance(connection.stream.error, UnsatisfiableReadError)
        )

    def end(self) -> None:
        """Count the request, if there was one."""
        if self.has_body:
            self.forget_body()
        if self.started:
            line = self.connection._response_start_line
            traffic = self.server.traffic
            traffic.in_flight -= 1
            self.ended = perf_counter()
            traffic.count(self.method, NO_ANSWER if line is None else line.code, self.ended - self.started)
            self.started = 0.0
            request_id.set("-")
            if self.forwarded:
                # A peer's word counts for one request (HTTPServer's _ProxyAdapter does the same).
                self.forwarded = False
                self.context._unapply_xheaders()

    def end_keep_alive(self) -> None:
        connection = self.connection
        headers = connection._request_headers
        if self.started and connection._response_start_line is None and headers:
            if _upgrades(headers):
                _close_unless_upgraded(connection)
            else:
                connection._disconnect_on_finish = True
                _forget_keep_alive(headers)

    def websocket(self) -> WebSocketHandler | None:
        """Return the handler if it is a WebSocket's."""
        handler = getattr(answerer(self.delegate), "handler", None)
        return handler if isinstance(handler, WebSocketHandler) else None


def _upgrades(headers: HTTPHeaders) -> bool:
    return "Upgrade" in headers and headers["Upgrade"].lower() == "websocket"


def _close_unless_upgraded(connection: HTTP1Connection) -> None:
    """Let a connection end with its answer, unless that is the begin of another protocol.

    With ``_disconnect_on_finish`` the core writes "Connection: close" over "Connection: Upgrade", and hangs up. A WebSocket is
    told 1012 like any other. Whether it becomes one is known when the answer is written.
    """
    write = connection.write_headers

    def write_headers(
        start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> "Future[None]":
        connection._disconnect_on_finish = cast(ResponseStartLine, start_line).code != 101
        return write(start_line, headers, chunk)

    setattr(connection, "write_headers", write_headers)  # noqa: B010 - mypy wants no assignment to a method


def _forget_keep_alive(headers: HTTPHeaders) -> None:
    """Keep write_headers from answering ``Keep-Alive`` to an HTTP/1.0 client, which it does come what may."""
    if headers.get("Connection", "").lower() == "keep-alive":
        del headers["Connection"]
