"""One process, from its application's import to its last connection."""

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tornado.web import Application

from eyewall import children
from eyewall.acceptor import Acceptor
from eyewall.admin import Admin, Status
from eyewall.answers import keep_versions_honest
from eyewall.arguments import UNIX
from eyewall.bodies import Limits
from eyewall.counters import Counters
from eyewall.debug import fix_debug
from eyewall.drain import Drain
from eyewall.gc_tuning import GarbageCollector
from eyewall.importer import load
from eyewall.limits import capped_backlog
from eyewall.membership import Membership
from eyewall.metrics import ProcessMetrics
from eyewall.proxy_headers import ProxyHeaders
from eyewall.server import Server, Servers
from eyewall.signals import Signals
from eyewall.sockets import listen
from eyewall.succession import watch_for_successor
from eyewall.watchdog import Watchdog

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Options:
    """What the command line says; `eyewall.cli` explains each."""

    target: str
    port: int
    address: str
    admin: Path | None
    release: str
    generation: str
    trusted: tuple[str, ...]
    drain: float
    watchdog: float
    backlog: int
    limits: Limits
    core: str
    debug: bool
    fixed: Mapping[str, bool]

    @property
    def where(self) -> str:
        return self.address if self.address.startswith(UNIX) else f"{self.address}:{self.port}"


class Process:
    """What stands around the servers of a process, whoever made them: a factory's, or a program's.

    `parent` is the pid of the process that started this one, or its group. `membership` may become another one: a program
    may fork (`eyewall.program`).
    """

    def __init__(self, options: Options, parent: int, signals: Signals, membership: Membership) -> None:
        self.options = options
        self.signals = signals
        self.membership = membership
        self.counters = Counters()
        self.proxy_headers = ProxyHeaders(options.trusted)
        self.acceptor = Acceptor(self.counters, shared=membership.shares_port)
        self.servers = Servers()
        self.drain = Drain(self.servers, self.counters, options.drain)
        self.parent = parent
        self._at_exit = contextlib.ExitStack()
        children.begin()
        keep_versions_honest()
        # what a `Server` is given
        self.parts: Mapping[str, Any] = {
            "counters": self.counters, "proxy_headers": self.proxy_headers, "acceptor": self.acceptor,
            "limits": options.limits, "core": options.core,
        }  # fmt: skip
        self._status = Status(
            servers=self.servers,
            counters=self.counters,
            draining=lambda: self.drain.draining,
            drained=lambda: self.drain.drained,
            drain=None if membership.forked else self.drain.ask,
            port=options.port,
            address=options.address,
            release=options.release,
            generation=options.generation,
        )

    @property
    def serving(self) -> bool:
        """Whether it has listened; true until the end."""
        return self._status.serving

    def add(self, server: Server) -> None:
        """Add a server, which listens as soon as the process does."""
        if isinstance(server.request_callback, Application):
            # a subclass may have replaced its settings when it had been made
            fix_debug(server.request_callback, self.options.fixed)
        self.servers.append(server)
        if self.serving and not self.drain.draining:
            if server.on_port and not self.servers.has_port:
                # the program has stopped the servers that were there
                self.servers.take_port(self._listen())
            self.servers.open(server)

    def leave_port(self) -> None:
        """Let go of the port if no server is on it any more, until a program makes another one.

        The processes of a group never do: the port is theirs together.
        """
        if not self.membership.forked and not self.servers.on_port:
            self.servers.leave_port()

    async def serve(self, publish: Callable[[], object] = lambda: None) -> None:
        """Serve until told to stop, and return when the drain has ended. `publish` is called when connections may come.

        Nothing is taken over from a process that serves already (neither the port nor the admin path) before
        this: a release that cannot be loaded disturbs nobody. Raises `eyewall.errors.Refusal`.
        """
        options = self.options
        if not options.debug:
            GarbageCollector().start()
        watchdog = Watchdog(options.watchdog)
        ProcessMetrics(self._status, watchdog).register()
        if (backlog := capped_backlog(options.backlog)) < options.backlog:
            log.warning("--backlog %d is capped at %d by net.core.somaxconn", options.backlog, backlog)

        with self._at_exit as at_exit:
            admins = self._bind_admins(at_exit)
            loop = asyncio.get_running_loop()
            children.hide_loop(loop)
            # The signal comes in the main thread, and the loop may be elsewhere, or wait.
            self.signals.begin_with(lambda reason: loop.call_soon_threadsafe(self.drain.begin, reason))
            self.servers.take_port(self._listen())
            # From here on connections arrive, and nothing may fail any more.
            for server in self.servers:
                self.servers.open(server)
            publish()
            for admin in admins:
                admin.start()
            self.membership.watch(self.drain.begin)
            self._watch_for_successor(admins, at_exit)
            watchdog.start()
            at_exit.callback(watchdog.stop)
            self._status.serving = True
            self.membership.serves()
            log.info(
                "serving %s on %s, release %s, generation %s, pid %d",
                options.target, options.where, options.release or "-", options.generation or "-", os.getpid(),
            )  # fmt: skip
            await self.drain.finish()

    def _listen(self) -> list[socket.socket]:
        options = self.options
        sockets = self.membership.bind(options.address, options.port, options.backlog, self._at_exit)
        listen(sockets, options.backlog)
        return sockets

    def _bind_admins(self, at_exit: contextlib.ExitStack) -> list[Admin]:
        """Make this process's admin servers."""
        if self.options.admin is None:
            return []
        admins = [Admin(path, status) for path, status in self.membership.statuses(self.options.admin, self._status)]
        for admin in admins:
            at_exit.callback(admin.stop)
            admin.bind()
        return admins

    def _watch_for_successor(self, admins: list[Admin], at_exit: contextlib.ExitStack) -> None:
        membership = self.membership
        if admins and membership.leads():
            leave = partial(membership.leave, self.drain.begin)
            at_exit.callback(asyncio.create_task(watch_for_successor(admins[-1], membership.orphaned, leave)).cancel)


async def serve_factory(process: Process) -> None:
    """Load the application that the target names, and serve it. Raises `eyewall.errors.Refusal`."""
    options = process.options
    application = await load(options.target)
    process.add(Server(application, **process.parts))
    await process.serve()
