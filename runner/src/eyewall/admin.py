"""The admin server: a Unix socket of its own, so nothing of it is on the public port to be blocked there."""

import asyncio
import contextlib
import json
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

from eyewall.counters import Counters
from eyewall.errors import Refusal
from eyewall.sockets import BACKLOG, UnixSocket

log = logging.getLogger(__name__)

KEEP_INTERVAL = 1.0  # seconds


class Counts(Protocol):
    """What is counted of servers."""

    @property
    def connections(self) -> int: ...

    @property
    def websockets(self) -> int: ...


@dataclass
class Status:
    """What the admin server reports."""

    servers: Counts
    counters: Counters
    draining: Callable[[], bool]
    port: int
    address: str
    release: str
    generation: str
    drained: Callable[[], bool] = lambda: False
    # Starts a drain; None for a process that drains on a signal alone
    drain: Callable[[str], object] | None = None
    serving: bool = False
    started: float = field(default_factory=time.time)
    # another clock: that of the host may be set back
    begun: float = field(default_factory=time.monotonic)

    @property
    def state(self) -> str:
        """``starting``, ``ready``, ``draining`` or ``drained``."""
        if self.drained():
            return "drained"
        if self.draining():
            return "draining"
        return "ready" if self.serving else "starting"

    async def readiness(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "release": self.release,
            "generation": self.generation,
            "port": self.port,
            "pid": os.getpid(),
        }

    async def full(self) -> dict[str, Any]:
        return await self.readiness() | {
            "address": self.address,
            "started": round(self.started, 3),
            "uptime_seconds": round(time.monotonic() - self.begun, 3),
            "connections": self.servers.connections,
            "websockets": self.servers.websockets,
            "requests": self.counters.total,
            "requests_in_flight": self.counters.in_flight,
            "open_files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - 50,000 Path objects are not wanted
            "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }

    async def metrics(self) -> bytes:
        """The default registry: the process's own metrics, and whatever the application adds to it."""
        return generate_latest(REGISTRY)


class _Handler(RequestHandler):
    status: Status

    def initialize(self, status: Status) -> None:
        self.status = status

    def answer(self, content: dict[str, Any]) -> None:
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps(content) + "\n")


class _Health(_Handler):
    """The loop turns, else nobody would answer."""

    def get(self) -> None:
        self.set_header("Content-Type", "text/plain")
        self.finish("ok\n")


class _Ready(_Handler):
    async def get(self) -> None:
        readiness = await self.status.readiness()
        if readiness["state"] != "ready":
            self.set_status(503)
        self.answer(readiness)


class _Drain(_Handler):
    """POST: start to drain. It then waits in the state ``drained`` for its signal, half a minute long (`eyewall.drain`)."""

    async def post(self) -> None:
        if self.status.drain is None:
            self.set_status(501)
        else:
            self.status.drain("asked on the admin socket")
        self.answer(await self.status.readiness())


class _Release(_Handler):
    def get(self) -> None:
        self.answer({"release": self.status.release, "generation": self.status.generation})


class _Status(_Handler):
    async def get(self) -> None:
        self.answer(await self.status.full())


class _Metrics(_Handler):
    async def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(await self.status.metrics())


class _PlainServer(HTTPServer):
    """Tornado's server as it is, even where ``HTTPServer.configure`` put another in its place."""


class Admin:
    """Serves a `Status` on a Unix socket at `path`, mode 0600.

    A socket that was removed, as with its directory, is made again within a second of the directory's return: a process
    that cannot be asked can be neither watched nor replaced without a loss.
    """

    def __init__(self, path: Path, status: Status) -> None:
        self._path = path
        self._place = UnixSocket(f"--admin {path}", path)
        self._listener: socket.socket | None = None
        self._keeper: asyncio.Task[None] | None = None
        handlers = [
            (r"/health", _Health),
            (r"/ready", _Ready),
            (r"/drain", _Drain),
            (r"/release", _Release),
            (r"/status", _Status),
            (r"/metrics", _Metrics),
        ]
        rules = [(pattern, handler, {"status": status}) for pattern, handler in handlers]
        # No access log: a probe that is answered 503 while we drain is no error.
        self._application = Application(rules, log_function=lambda _handler: None)
        self._server = _PlainServer(self._application)

    def bind(self) -> None:
        """Make the socket, under another name. Raises `Refusal` if the path cannot be had."""
        self._listener = self._place.bind()

    def start(self) -> None:
        """Listen, and take the path over from whoever had it; `bind` comes before."""
        self._listen()
        self._keeper = asyncio.get_running_loop().create_task(self._keep())

    def _listen(self) -> None:
        assert self._listener is not None  # noqa: S101
        # The kernel says who has a socket (SO_PEERCRED): who was the last to say this. gunicorn's master makes it.
        self._listener.listen(BACKLOG)
        self._server.add_socket(self._listener)
        self._place.publish()

    async def _keep(self) -> None:
        """Make the socket again whenever nothing stands at its path."""
        while True:
            await asyncio.sleep(KEEP_INTERVAL)
            if not self._place.is_missing():
                continue
            with contextlib.suppress(Refusal):  # no directory yet
                self.bind()
                # a server that was stopped takes no other socket
                self._server.stop()
                self._server = _PlainServer(self._application)
                self._listen()
                log.warning("%s was removed, and is there again", self._path)

    def superseded(self) -> bool:
        """Tell whether another process's socket stands at the path."""
        return self._place.superseded()

    def stop(self) -> None:
        """Stop, and remove the socket unless it is a successor's."""
        if self._keeper is not None:
            self._keeper.cancel()
        self._server.stop()
        self._place.remove()
