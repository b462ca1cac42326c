"""Tornado's own HTTP core, and what it tells nobody: for TLS, an overridden ``handle_stream``, and ``--core tornado``.

Tornado says neither that an answer is complete nor that a connection was taken over or that a head was malformed. It asks
for the next request when an answer is complete, so a request is counted then, or when the connection ends. The rest is read
from its private state.
"""

from asyncio import Future
from collections.abc import Awaitable
from typing import Any, cast

from tornado.http1connection import HTTP1Connection, HTTP1ServerConnection
from tornado.httputil import HTTPConnection, HTTPHeaders, HTTPMessageDelegate, RequestStartLine, ResponseStartLine
from tornado.iostream import IOStream, UnsatisfiableReadError

from eyewall.exchange import Exchange, announces_body
from eyewall.head import split_head
from eyewall.stream import Stream


class TornadoRequest:
    """A request of Tornado's core, as `eyewall.exchange.Answer` has it."""

    __slots__ = ("connection", "finish", "set_max_body_size", "write_headers")

    def __init__(self, connection: HTTP1Connection) -> None:
        self.connection = connection
        self.finish = connection.finish
        self.set_max_body_size = connection.set_max_body_size
        self.write_headers = connection.write_headers

    @property
    def line(self) -> RequestStartLine:
        return cast(RequestStartLine, self.connection._request_start_line)

    @property
    def status(self) -> int:
        line = self.connection._response_start_line
        return 0 if line is None else line.code

    @property
    def stream(self) -> Any:
        return self.connection.stream

    def close(self) -> None:
        self.connection.close()

    def end_keep_alive(self) -> None:
        """Let the connection end with this answer if its headers have yet to be written.

        HTTP1Connection decides when a request's headers arrive whether it is the last; a request that is past that point
        is told here.
        """
        connection = self.connection
        headers = connection._request_headers
        if headers is None or connection._response_start_line is not None:
            return
        if headers.get("Upgrade", "").lower() == "websocket":
            _close_unless_upgraded(connection)
            return
        connection._disconnect_on_finish = True
        # write_headers answers Keep-Alive to an HTTP/1.0 client come what may.
        if headers.get("Connection", "").lower() == "keep-alive":
            del headers["Connection"]


class TornadoExchange(Exchange):
    """An `Exchange` whose events are found out, not told."""

    __slots__ = ("core_request", "server_connection")

    core_request: HTTP1Connection
    server_connection: HTTP1ServerConnection

    def start(self, server_connection: object, request: HTTPConnection, delegate: HTTPMessageDelegate) -> None:
        """Get ready for the next request: the one before has been answered."""
        if self.started:
            self.answered(cast(Any, self.request).status)
        self.server_connection = cast(HTTP1ServerConnection, server_connection)
        self.core_request = cast(HTTP1Connection, request)
        setattr(request, "_parse_headers", split_head)  # noqa: B010 - mypy wants no assignment to a method
        self.delegate = delegate

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        self.begin(TornadoRequest(self.core_request), headers)
        self._set_unread(announces_body(headers))
        return super().headers_received(start_line, headers)

    def forget_body(self) -> None:
        super().forget_body()
        self._set_unread(False)

    def closed(self) -> None:
        request = self.core_request
        stream = cast(IOStream | None, request.stream)
        # The core closes its end when a head makes no sense, which it does to no connection that waits for a request; or,
        # where a head is too long, the stream closes itself.
        if not self.started and (
            request._finish_future.done() or isinstance(getattr(stream, "error", None), UnsatisfiableReadError)
        ):
            self.malformed()
        delegate = self.delegate
        super().closed()
        if stream is None:
            self.delegate = delegate
            self.detached(self.server_connection.stream)

    def _set_unread(self, unread: bool) -> None:
        if isinstance(stream := self.core_request.stream, Stream):
            stream.unread = unread


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
