"""The admin server: a Unix socket of its own, so nothing of it is on the public port to be blocked there."""

import json
import logging
import os
import resource
import socket
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler

from eyewall.errors import Refusal
from eyewall.server import Server

log = logging.getLogger(__name__)

# sockaddr_un.sun_path has 108 bytes with its NUL (unix(7)).
MAX_PATH = 107


@dataclass
class Status:
    """What the admin server reports."""

    server: Server
    draining: Callable[[], bool]
    port: int
    address: str
    release: str
    generation: str
    serving: bool = False
    started: float = field(default_factory=time.time)

    @property
    def state(self) -> str:
        """``starting``, ``ready`` or ``draining``."""
        if self.draining():
            return "draining"
        return "ready" if self.serving else "starting"

    def readiness(self) -> dict[str, Any]:
        return {
            "state": self.state,
            "release": self.release,
            "generation": self.generation,
            "port": self.port,
            "pid": os.getpid(),
        }

    def full(self) -> dict[str, Any]:
        traffic = self.server.traffic
        return self.readiness() | {
            "address": self.address,
            "started": round(self.started, 3),
            "uptime_seconds": round(time.time() - self.started, 3),
            "connections": self.server.connections,
            "websockets": self.server.websockets,
            "requests": traffic.total,
            "requests_in_flight": traffic.in_flight,
            "open_files": len(os.listdir("/proc/self/fd")),  # noqa: PTH208 - 50,000 Path objects are not wanted
            "open_files_limit": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        }


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
    def get(self) -> None:
        if self.status.state != "ready":
            self.set_status(503)
        self.answer(self.status.readiness())


class _Release(_Handler):
    def get(self) -> None:
        self.answer({"release": self.status.release, "generation": self.status.generation})


class _Status(_Handler):
    def get(self) -> None:
        self.answer(self.status.full())


class _Metrics(_Handler):
    """The default registry: the process's own metrics, and whatever the application adds to it."""

    def get(self) -> None:
        self.set_header("Content-Type", CONTENT_TYPE_LATEST)
        self.finish(generate_latest(REGISTRY))


class _PlainServer(HTTPServer):
    """Tornado's server as it is, even where ``HTTPServer.configure`` put another in its place."""


class Admin:
    """Serves a `Status` on a Unix socket at `path`, mode 0600."""

    def __init__(self, path: Path, status: Status) -> None:
        self._path = path
        # Our own name in the same directory: rename(2) is atomic within a file system only.
        self._temporary = path.with_name(f".{os.getpid()}.{path.name}")
        self._listener: socket.socket | None = None
        self._inode: tuple[int, int] | None = None
        handlers = [
            (r"/health", _Health),
            (r"/ready", _Ready),
            (r"/release", _Release),
            (r"/status", _Status),
            (r"/metrics", _Metrics),
        ]
        rules = [(pattern, handler, {"status": status}) for pattern, handler in handlers]
        # No access log: a probe that is answered 503 while we drain is no error.
        self._server = _PlainServer(Application(rules, log_function=lambda _handler: None))

    def bind(self) -> None:
        """Make the socket, under another name. Raises `Refusal` if the path cannot be had."""
        try:
            if not stat.S_ISSOCK(self._path.stat().st_mode):
                raise Refusal(f"--admin {self._path}: exists and is no socket")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise Refusal(f"--admin {self._path}: {error.strerror}") from None
        if (excess := len(os.fsencode(self._temporary)) - MAX_PATH) > 0:
            raise Refusal(f"--admin {self._path}: longer by {excess} bytes than a Unix socket's path can be")
        try:
            self._listener = bind_unix_socket(str(self._temporary), mode=0o600)
            at = self._temporary.stat()
        except OSError as error:
            raise Refusal(f"--admin {self._path}: {error.strerror}") from None
        self._inode = (at.st_dev, at.st_ino)

    def start(self) -> None:
        """Listen, and take the path over from whoever had it, in one step; `bind` comes before.

        At no moment is there no socket at the path, and one that a dead process left there is replaced.
        A living process that had it goes on, unseen.
        """
        assert self._listener is not None  # noqa: S101
        self._server.add_socket(self._listener)
        self._temporary.rename(self._path)

    def superseded(self) -> bool:
        """Tell whether another process's socket stands at the path. No socket at all is no successor."""
        at = self._at_path()
        return at is not None and at != self._inode

    def stop(self) -> None:
        """Stop, and remove the socket unless it is a successor's."""
        self._server.stop()
        self._temporary.unlink(missing_ok=True)
        if self._inode is not None and self._at_path() == self._inode:
            self._path.unlink()

    def _at_path(self) -> tuple[int, int] | None:
        # While we listen, the kernel holds our inode, so its number is nobody else's.
        try:
            at = self._path.stat()
        except OSError:
            return None
        return (at.st_dev, at.st_ino)
