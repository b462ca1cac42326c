"""The servers of a process: Tornado's `HTTPServer` with what production needs of one.

`Server` has counts, trusted headers, a request id, an accept queue that is emptied, connections that end with their next
answer, WebSockets that can be told. `eyewall.drain`, `eyewall.admin` and `eyewall.metrics` use only its public methods. What is
beneath it is `eyewall.connection`, or Tornado's own core (`eyewall.tornado_core`).

Tornado's `HTTPServer` is a `Configurable`: its own way to put another class beneath a program that makes
its servers itself. `eyewall.program` puts `ProgramServer` there::

    ProgramServer.defaults = {"place": …, "counters": …, "proxy_headers": …, "acceptor": …}
    HTTPServer.configure(ProgramServer)
"""

import asyncio
import contextlib
import errno
import logging
import socket
import weakref
from collections import deque
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from time import perf_counter
from typing import Any, ClassVar, Protocol, cast

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.iostream import IOStream
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from eyewall.acceptor import Acceptor
from eyewall.answers import for_proxies
from eyewall.bodies import LOOKS, WINDOW, Body, Limits
from eyewall.children import hide
from eyewall.connection import Connection, Request, Surroundings, TakenOver
from eyewall.counters import Counters
from eyewall.crowd import FEW, SLICE, Crowd
from eyewall.exchange import Exchange, Peer
from eyewall.log import log_request
from eyewall.packed import pack
from eyewall.proxy_headers import ProxyHeaders
from eyewall.stream import Stream
from eyewall.tornado_core import TornadoExchange

log = logging.getLogger(__name__)

SERVICE_RESTART = 1012  # IANA's registry of WebSocket close codes
# Bytes of a head: more than a proxy in front passes on, which has something to say of one that is too large. For the core it is
# a connection to be closed, and for nginx then a process that does not answer (502). The role's nginx takes twice 64 KB at most.
HEAD = 192 * 1024
SETTLE_SECONDS = 1.0  # after which what a WebSocket began with is taken for read
IDLE_CHECKS = 20  # in the time that a connection may be idle


class Server(HTTPServer):
    """Tornado's HTTP server, watched.

    Takes what `HTTPServer` takes, and `counters` (where to count), `proxy_headers` (whose headers are believed),
    `acceptor` (what accepts connections), `limits` (of bodies) and `core` (``eyewall``, or ``tornado`` for Tornado's own).
    Whether ``xheaders`` is given or not: headers of the peers in `proxy_headers` are believed,
    of others never. ``trusted_downstream`` is skipped in ``X-Forwarded-For``, as Tornado does.
    """

    # Whether it serves what comes to the process's port; a server that a program made may have sockets of its own alone.
    on_port = True

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        self.counters: Counters = kwargs.pop("counters", None) or Counters()
        proxies: ProxyHeaders = kwargs.pop("proxy_headers", None) or ProxyHeaders()
        self.proxy_headers = proxies.skipping(kwargs.get("trusted_downstream") or ())
        self.acceptor: Acceptor = kwargs.pop("acceptor", None) or Acceptor(self.counters)
        self.limits: Limits = kwargs.pop("limits", None) or Limits()
        # Whoever handles streams differently gets them.
        self._own_core = (
            kwargs.pop("core", "eyewall") == "eyewall"
            and not kwargs.get("ssl_options")
            and type(self).handle_stream is HTTPServer.handle_stream
        )
        self._surroundings: Surroundings | None = None
        self.draining = False
        self.own_sockets: list[socket.socket] = []
        self._listeners: dict[int, socket.socket] = {}
        self.bodies: dict[Exchange, Body] = {}
        self._watching = self._sweeping = False
        self.lingering: set[asyncio.Task[None]] = set()
        self._crowd: Crowd | None = None
        self._exchanges: dict[object, Exchange] = {}
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
            for listener in sockets:
                hide(listener)
                self._listeners[listener.fileno()] = listener
                self._handlers[listener.fileno()] = self.acceptor.add(listener, self._handle_connection)

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def connections(self) -> int:
        """Open connections, WebSockets and those that linger included."""
        return len(self._connections) + len(self._open_streams()) + len(self.lingering)

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
                self.acceptor.leave(listener)
            else:
                listener.close()
        self._listeners.clear()
        for fd, listener in self._sockets.items():  # that `add_sockets` of `HTTPServer` listens on
            if (remove := self._handlers.pop(fd, None)) is not None:
                remove()
                listener.close()
        for connection, address in taken:
            self._handle_connection(connection, address)

    def end_keep_alive(self) -> None:
        """Let every connection end with its next answer, which says ``Connection: close``.

        No idle connection is closed: its client may be sending a request this moment, which would be lost.
        An answer whose headers were written cannot say so any more, and a close that was not announced is the loss
        we avoid: such a connection has one more request.
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
        idle = [item for item in self._exchanges.items() if not item[1].started and item[1].ended < long_ago]
        self._close_some(idle, long_ago)
        self._sweeping = bool(self._exchanges)
        if self._sweeping:
            asyncio.get_running_loop().call_later(self._idle_seconds / IDLE_CHECKS, _sweep, weakref.ref(self))

    def _close_some(self, idle: list[tuple[Any, Exchange]], long_ago: float) -> None:
        for connection, exchange in idle[:SLICE]:
            if connection in self._exchanges and not exchange.started and exchange.ended < long_ago:  # still
                connection.stream.close()
        if rest := idle[SLICE:]:
            asyncio.get_running_loop().call_soon(self._close_some, rest, long_ago)

    def watch(self, exchange: Exchange, body: Body) -> None:
        """Watch a body until it is complete: it must not come more slowly than the limit."""
        self.bodies[exchange] = body
        if not self._watching and self.limits.rate:
            self._watching = True
            asyncio.get_running_loop().call_later(WINDOW / LOOKS, self._watch_bodies)

    def _watch_bodies(self) -> None:
        now = perf_counter()
        for exchange, body in list(self.bodies.items()):
            stream = exchange.request and exchange.request.stream
            if not stream or not stream.reading():
                body.forgive(now)  # the application has yet to take what came
            elif body.is_slow(self.limits.rate, now):
                exchange.refuse(HTTPStatus.REQUEST_TIMEOUT, f"less than {self.limits.rate} bytes of a body per second")
        self._watching = bool(self.bodies)
        if self._watching:
            asyncio.get_running_loop().call_later(WINDOW / LOOKS, self._watch_bodies)

    # What the core calls

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        if self.ssl_options is not None:
            super()._handle_connection(connection, address)
        elif self._own_core:
            self._serve(connection, address)
        else:
            stream = Stream(
                connection,
                max_buffer_size=self.max_buffer_size,
                read_chunk_size=self.read_chunk_size,
                lingering=self.lingering,
            )
            if (crowd := self._join()) is not None:
                stream.io_loop = cast(Any, crowd)
            self.handle_stream(stream, address)

    def _join(self) -> Crowd | None:
        """Return the crowd that the next connection is one of, if there are many."""
        if len(self._connections) + len(self._detached) < FEW:
            return None
        self._crowd = self._crowd or Crowd()
        return self._crowd

    def _serve(self, connected: socket.socket, address: Any) -> None:
        loop = asyncio.get_running_loop()
        around = self._surroundings
        if around is None or around.loop is not loop:
            around = self._surroundings = Surroundings(self, loop)
        connected.setblocking(False)
        if connected.family != socket.AF_UNIX:
            with contextlib.suppress(OSError):  # its client has left already
                connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peer = Peer(address, connected.family, self.protocol or "http")
        exchange = Exchange(self, peer)
        connection = Connection(self, around, connected, context=peer, events=exchange, crowd=self._join())
        self._connections.add(cast(Any, connection))
        self._add_exchange(connection, exchange)

    def _add_exchange(self, server_conn: object, exchange: Exchange) -> None:
        self._exchanges[server_conn] = exchange
        if not self._sweeping:
            self._close_idle()

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Get ready for the next request of a connection; the one before has ended."""
        delegate = super().start_request(server_conn, request_conn)
        if isinstance(server_conn, Connection):
            return delegate
        exchange = self._exchanges.get(server_conn)
        if exchange is None:
            exchange = TornadoExchange(self, cast(Any, request_conn).context)
            self._add_exchange(server_conn, exchange)
        cast(TornadoExchange, exchange).start(server_conn, request_conn, delegate)
        return exchange

    def on_close(self, server_conn: object) -> None:
        super().on_close(server_conn)
        if (exchange := self._exchanges.pop(server_conn, None)) is not None:
            exchange.closed()

    def add_detached(self, stream: IOStream, handler: "weakref.ref[WebSocketHandler] | None") -> None:
        """Count a connection that an application has taken over; a WebSocket is told when the server drains."""
        self._detached[stream] = handler
        if handler is not None:
            asyncio.get_running_loop().call_later(SETTLE_SECONDS, _settle, handler)
        if self.draining and handler is not None:
            self._untold.append(handler)

    def _open_streams(self) -> list[IOStream]:
        # The application may hold on to a stream that was closed, so weak references are not enough.
        for stream in [stream for stream in self._detached if stream.closed()]:
            del self._detached[stream]
        return list(self._detached)


def _settle(reference: "weakref.ref[WebSocketHandler]") -> None:
    """Let a WebSocket keep no more of its handshake than it may be asked for."""
    handler = reference()
    request = getattr(handler, "request", None)  # an application may have let go of it
    connection = getattr(request, "connection", None)
    if handler is None or request is None or not isinstance(connection, Request):
        return
    request.connection = request.server_connection = TakenOver(connection.connection)
    pack(request.headers)
    pack(handler._headers)


def _sweep(reference: "weakref.ref[Server]") -> None:
    # A timer of the loop would keep a server whose program has forgotten it.
    if (server := reference()) is not None:
        server._close_idle()


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
