"""Tornado's own tests of its handlers, with `eyewall.wsgi` and gunicorn between client and handler.

Each connection is served by gunicorn's HTTP code in a thread of this process, because the tests look into their
handlers. The handlers run on the test's own loop, which stands in for the loop of a worker process.
"""

import asyncio
import logging
import socket
import threading
import time
import unittest
from collections.abc import Iterator
from types import ModuleType
from typing import Any
from unittest import mock

import pytest
from eyewall import wsgi, wsgi_connection
from gunicorn.config import Config
from gunicorn.http import RequestParser
from gunicorn.http.wsgi import create
from support.runner import PATIENCE
from tornado.httputil import HTTPOutputError
from tornado.test import auth_test, web_test
from tornado.testing import AsyncHTTPTestCase

pytestmark = pytest.mark.slow


class Gunicorn:
    """As much of `HTTPServer` as `AsyncHTTPTestCase` uses, with the HTTP code of a gunicorn worker."""

    def __init__(self, application: wsgi.WSGIApplication) -> None:
        self._application = application
        self._config = Config()
        self._serving: list[threading.Thread] = []

    def add_sockets(self, sockets: list[socket.socket]) -> None:
        (self._listener,) = sockets
        self._listener.setblocking(True)
        threading.Thread(target=self._accept, daemon=True).start()

    def stop(self) -> None:
        # wakes up accept(), which close() alone does not
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    async def close_all_connections(self) -> None:
        """Wait until each has ended: the client has its answer before the handler hears that it was sent."""
        deadline = time.monotonic() + PATIENCE
        while any(thread.is_alive() for thread in self._serving):
            assert time.monotonic() < deadline, "a connection does not end"
            await asyncio.sleep(0.001)

    def _accept(self) -> None:
        while True:
            try:
                connection, address = self._listener.accept()
            except OSError:
                return
            self._serving.append(threading.Thread(target=self._serve, args=(connection, address), daemon=True))
            self._serving[-1].start()

    def _serve(self, connection: socket.socket, address: tuple[str, int]) -> None:
        """Do what `gunicorn.workers.sync.SyncWorker.handle_request` does."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # as gunicorn.sock does
        with connection:
            try:
                request = next(RequestParser(self._config, connection, address))
                response, environ = create(request, connection, address, connection.getsockname(), self._config)
                response.force_close()
                pieces = self._application(environ, response.start_response)
                try:
                    for piece in pieces:
                        response.write(piece)
                    response.close()
                finally:
                    if isinstance(pieces, wsgi_connection.WSGIResponse):
                        pieces.close()
            except (OSError, HTTPOutputError) as error:
                logging.getLogger("gunicorn").debug("%r", error)


def get_http_server(self: Any) -> Gunicorn:
    """Make, for an `AsyncHTTPTestCase`, a server with `eyewall.wsgi` before the test's application."""
    chunk = self.get_httpserver_options().get("chunk_size", wsgi_connection.CHUNK)
    self.enterContext(mock.patch.object(wsgi_connection, "CHUNK", chunk))
    application = wsgi.WSGIApplication(self._app)
    home = application._home()
    home.loop.close()
    home.loop = self.io_loop.asyncio_loop
    home.thread = threading.current_thread()
    return Gunicorn(application)


@pytest.fixture(autouse=True)
def no_access_log() -> Iterator[None]:
    """Do as ``python -m tornado.test.runtests`` does: its tests expect it."""
    log = logging.getLogger("tornado.access")
    level = log.level
    log.setLevel(logging.CRITICAL)
    yield
    log.setLevel(level)


# Bases of other tests.
ABSTRACT = {"WebTestCase", "SimpleHandlerTestCase", "GzipTestCase"}
DECOMPRESS = "decompress_request is an option of Tornado's server; a WSGI server passes a body as it is"
CANNOT = {
    "ConnectionCloseTest.test_connection_close": "a WSGI server does not notice that a client left before it writes",
    "StreamingRequestBodyTest.test_streaming_body": "wsgi.input.read waits until a piece is full or the body ends",
    "DecoratedStreamingRequestFlowControlTest.test_flow_control_compressed_body": DECOMPRESS,
    "NativeStreamingRequestFlowControlTest.test_flow_control_compressed_body": DECOMPRESS,
    "ClientCloseTest.test_client_close": "it closes request.connection.stream, and there is none",
}


def bridged(module: ModuleType) -> dict[str, type]:
    """Return the module's test cases, each with another server."""
    cases = {}
    for name, case in vars(module).items():
        if not isinstance(case, type) or not issubclass(case, AsyncHTTPTestCase):
            continue
        if case.__module__ != module.__name__ or name in ABSTRACT:
            continue
        changes: dict[str, Any] = {"get_http_server": get_http_server, "__module__": __name__}
        for test in unittest.TestLoader().getTestCaseNames(case):
            reason = CANNOT.get(f"{name}.{test}")
            if reason:
                changes[test] = unittest.skip(reason)(getattr(case, test))
        cases[name] = type(name, (case,), changes)
    return cases


globals().update(bridged(web_test) | bridged(auth_test))
