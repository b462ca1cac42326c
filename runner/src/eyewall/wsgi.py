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
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tornado.httputil import HTTPInputError
from tornado.routing import Router, RuleRouter
from tornado.web import Application
from tornado.websocket import WebSocketHandler

from eyewall.arguments import LOOPBACK
from eyewall.importer import build, find
from eyewall.proxy_headers import ProxyHeaders
from eyewall.wsgi_connection import WSGIConnection, WSGIResponse
from eyewall.wsgi_request import Refused, Request, refuse

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse

log = logging.getLogger(__name__)

MAX_BODY = 100 * 1024 * 1024  # bytes, what Tornado's server takes by default
TIMEOUT = 60.0  # seconds


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
            request = Request.read(environ, self._proxies)
        except HTTPInputError as error:
            return refuse(start_response, 400, "Bad Request", str(error))
        except Refused as refused:
            return refuse(start_response, *refused.answer)
        home = self._home(serving=True)
        connection = WSGIConnection(home.application, home.loop, request, self._max_body_size, self._max_buffered_body)
        home.loop.call_soon_threadsafe(connection.start)
        return WSGIResponse(connection, self._timeout).begin(start_response)

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
