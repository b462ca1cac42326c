"""What the runner does for each request: counts it, gives it an id, believes trusted headers, limits its body.

An `Exchange` hears of the requests of one connection from the core beneath, `eyewall.connection` or Tornado's
(`eyewall.tornado_core`). This is the hot path.
"""

import logging
import secrets
import socket
import sys
import weakref
from collections.abc import Awaitable
from http import HTTPStatus
from itertools import count
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol, cast

from tornado.escape import native_str
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream
from tornado.websocket import WebSocketHandler

from eyewall.bodies import Body, answerer, declared, streams
from eyewall.connection import NOBODY, Events
from eyewall.context import request_id
from eyewall.counters import NO_ANSWER
from eyewall.proxy_headers import HEADERS

if TYPE_CHECKING:
    from eyewall.server import Server

log = logging.getLogger(__name__)

# An id that is unique across processes for the price of a counter.
_id_prefix = secrets.token_hex(8)
_id_numbers = count(1)


class Peer:
    """Who sends the requests of a connection, what an application finds as ``request.connection.context``.

    As Tornado's ``_HTTPRequestContext``, in a quarter of the memory. `address` is the socket's, of a family, and `protocol`
    ``http`` or ``https``.
    """

    # An application may put something of its own here.
    __slots__ = ("__dict__", "__weakref__", "_protocol", "address", "address_family", "protocol", "remote_ip")

    def __init__(self, address: Any, address_family: int, protocol: str) -> None:
        self.address = address
        self.address_family = address_family
        self._protocol = protocol
        self._unapply_xheaders()

    def _unapply_xheaders(self) -> None:
        """Believe no header any more."""
        self.protocol = self._protocol
        self.remote_ip: str = self.address[0] if self._is_internet and self.address is not None else "0.0.0.0"  # noqa: S104

    @property
    def _is_internet(self) -> bool:
        return self.address_family in (socket.AF_INET, socket.AF_INET6)

    def __str__(self) -> str:
        if self._is_internet:
            return self.remote_ip
        return native_str(self.address) if isinstance(self.address, bytes) else str(self.address)


class Answer(Protocol):
    """What an `Exchange` has to know of the core's request, and may do with it."""

    @property
    def line(self) -> RequestStartLine: ...

    @property
    def status(self) -> int:
        """The answer's; 0 as long as its headers were not written."""

    @property
    def stream(self) -> Any: ...

    def end_keep_alive(self) -> None: ...

    def set_max_body_size(self, max_body_size: int) -> None: ...

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> Any: ...

    def finish(self) -> None: ...

    def close(self) -> None: ...


def announces_body(headers: HTTPHeaders) -> bool:
    """Tell whether a request has a body, by its headers."""
    return "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0"


class Exchange(Events):
    """One object per connection, used for one request after the other; with a body, the delegate before the application's."""

    __slots__ = (
        "context", "delegate", "ended", "forwarded", "has_body", "method", "request", "server", "started", "trusted",
    )  # fmt: skip

    def __init__(self, server: "Server", context: Any) -> None:
        self.server = server
        self.context = context
        self.trusted = server.proxy_headers.trusts(context.remote_ip)
        self.forwarded = False
        self.has_body = False
        self.method = ""
        self.request: Answer | None = None
        self.delegate: HTTPMessageDelegate = NOBODY
        # perf_counter() when the request's headers were read; 0: none since the last answer.
        self.started = 0.0
        # perf_counter() of the last answer's end, or of the connection's begin
        self.ended = perf_counter()

    # Events of the core

    def begin(self, request: Answer, headers: HTTPHeaders) -> None:
        """Begin with a request, of which the delegate has yet to hear."""
        server = self.server
        self.started = perf_counter()
        self.request = request
        self.method = request.line.method
        server.counters.in_flight += 1
        # One pass in C over the names, instead of five lookups.
        believed = self.trusted and not HEADERS.isdisjoint(headers._as_list)
        identity = self.believe(headers) if believed else None
        # The handler's task is made from here, and so inherits it.
        request_id.set(identity or f"{_id_prefix}{next(_id_numbers):08x}")
        if server.draining:
            request.end_keep_alive()

    def answered(self, status: int) -> None:
        """Count the request. Its id stays: the handler has yet to log."""
        counters = self.server.counters
        if self.has_body:
            self.forget_body()
        counters.in_flight -= 1
        self.ended = now = perf_counter()
        counters.count(self.method, status, now - self.started)
        self.started = 0.0
        self.request = None
        if self.forwarded:
            # A peer's word counts for one request (HTTPServer's _ProxyAdapter does the same).
            self.forwarded = False
            self.context._unapply_xheaders()

    def detached(self, stream: IOStream) -> None:
        """Know a connection that the application has taken over, as a rule for a WebSocket."""
        handler = getattr(answerer(self.delegate), "handler", None)
        self.server.add_detached(stream, weakref.ref(handler) if isinstance(handler, WebSocketHandler) else None)

    def malformed(self) -> None:
        """Count what is no head."""
        request_id.set("-")
        self.server.counters.malformed += 1

    def closed(self) -> None:
        """Count the request whose connection ended before its answer, if there was one."""
        if self.started:
            self.answered((self.request and self.request.status) or NO_ANSWER)
            request_id.set("-")
        self.delegate = NOBODY

    # A delegate of the core

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        if not announces_body(headers):
            return self.delegate.headers_received(start_line, headers)
        self.has_body = True
        # The handler of a stream begins now; any other is found now, and begins when the body is complete.
        prepared = self.delegate.headers_received(start_line, headers)
        self.expect(headers)
        return prepared

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

    def believe(self, headers: HTTPHeaders) -> str | None:
        """Take over what a trusted peer says; return its id of the request, if any."""
        proxies, context = self.server.proxy_headers, self.context
        self.forwarded = True
        client = proxies.client(headers)
        if client is not None:
            context.remote_ip = client
        scheme = proxies.scheme(headers)
        if scheme is not None:
            context.protocol = scheme
        return proxies.request_id(headers)

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
        request = cast(Answer, self.request)
        self.server.bodies.pop(self, None)
        log.warning("%d %s %s (%s): %s", status, self.method, request.line.path, self.context.remote_ip, why)
        if request.status:
            request.close()
            return
        text = b"" if self.method == "HEAD" else f"{status.value} {status.phrase}\n".encode()
        headers = HTTPHeaders({"Content-Type": "text/plain", "Content-Length": str(len(text)), "Connection": "close"})
        # What is left of the body is read and thrown away by the core, until the answer is sent.
        request.set_max_body_size(sys.maxsize)
        request.write_headers(ResponseStartLine("HTTP/1.1", status, status.phrase), headers, text)
        request.finish()

    def forget_body(self) -> None:
        self.has_body = False
        self.server.bodies.pop(self, None)

    def end_keep_alive(self) -> None:
        if self.request is not None:
            self.request.end_keep_alive()
