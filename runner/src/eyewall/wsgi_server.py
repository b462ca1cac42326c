"""``--wsgi``: the factory's application under gunicorn, in the frame that `eyewall.process` puts around Tornado's server.

gunicorn's master is the process that supervisord knows. It has one worker (``gthread``), which loads the
application by `eyewall.wsgi` and answers. The master holds the sockets, the admin's too, so both outlive a
worker: what comes while gunicorn starts another waits in their queues.

gunicorn's documented extension points are used: a custom application (`BaseApplication`), hooks, worker class
and logger class. Beyond that (checked against gunicorn 27.0): ``Arbiter.LISTENERS`` and ``systemd``;
``ThreadWorker.accept``, ``handle_error``, ``nr_conns``, ``alive``, ``set_accept_enabled``, ``is_parent_alive``;
``gthread.STOP_KEEPALIVE_LINGER``.
"""

import asyncio
import contextlib
import faulthandler
import logging
import math
import os
import resource
import select
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import Any

from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.glogging import Logger  # type: ignore[import-untyped]
from gunicorn.workers import gthread  # type: ignore[import-untyped]

from eyewall import children
from eyewall.admin import Admin, Status
from eyewall.counters import NO_ANSWER, Counters
from eyewall.errors import Refusal
from eyewall.metrics import ProcessMetrics
from eyewall.process import Options
from eyewall.sockets import bind, listen
from eyewall.succession import reparented, watch_for_successor
from eyewall.watchdog import Watchdog, dump_stacks_on_demand
from eyewall.wsgi import WSGIApplication, make

log = logging.getLogger(__name__)

# Seconds that an idle connection is kept. A proxy closes its own first (the role's nginx after one second): what is
# sent on a connection that we are just closing is lost.
KEEPALIVE = 65
# How long after the drain the master kills a worker that is still there: the interpreter waits for every thread.
EXIT_SECONDS = 2
# Connections at a time, gunicorn's own number; more wait in the queue. Without open files for so many, fewer: at the limit
# of open files gunicorn's worker would die.
CONNECTIONS = 1000
SPARE_FILES = 64
MAX_LINE = 8190  # bytes, the most that gunicorn takes; nginx's large_client_header_buffers have 8 KiB


def serve(options: Options, threads: int, parent: int) -> int:
    """Serve until told to stop; return the exit status. In the worker it raises `SystemExit`.

    `parent` is the pid of the process that started this one. Raises `eyewall.errors.Refusal`.
    """
    master = os.getpid()
    with contextlib.ExitStack() as at_exit:
        try:
            _Application(options, threads, parent, at_exit).run()
        except SystemExit as end:
            if os.getpid() == master and end.code == Arbiter.APP_LOAD_ERROR:
                return 2
            raise
    return 0


@dataclass(kw_only=True)
class _Status(Status):
    """The status of a worker; `pid` is its master's, whom everybody else knows."""

    pid: int

    async def readiness(self) -> dict[str, Any]:
        return await super().readiness() | {"pid": self.pid}


class _Application(BaseApplication):  # type: ignore[misc]
    """What gunicorn runs, as its manual's "Custom Application" has it; made in the master, forked into each worker."""

    def __init__(self, options: Options, threads: int, parent: int, at_exit: contextlib.ExitStack) -> None:
        self.options = options
        self.at_exit = at_exit  # the master's
        self.drain = math.ceil(options.drain)  # gunicorn takes whole seconds
        self.counters = Counters()
        self.reason = "SIGTERM"  # to drain
        self._threads = threads
        self._parent = parent
        self._master = os.getpid()
        self._started = threading.local()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        self._status = _Status(
            servers=self,
            counters=self.counters,
            draining=lambda: self._worker is not None and not self._worker.alive,
            port=options.port,
            address=options.address,
            release=options.release,
            generation=options.generation,
            pid=self._master,
        )
        self._sockets = bind(options.address, options.port, options.backlog, at_exit)
        self._admin: Admin | None = None
        if options.admin is not None:
            self._admin = Admin(options.admin, self._status)
            at_exit.callback(self._admin.stop)
            self._admin.bind()
        super().__init__()

    def load_config(self) -> None:
        settings: dict[str, Any] = {
            "worker_class": _Worker,
            "logger_class": _Logger,
            "errorlog": None,
            "loglevel": "warning",
            "workers": 1,
            "threads": self._threads,
            "worker_connections": min(CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - SPARE_FILES),
            "graceful_timeout": self.drain + EXIT_SECONDS,
            "keepalive": KEEPALIVE,
            "limit_request_line": MAX_LINE,
            # A factory may take its time, and gunicorn's timeout would count it. Our watchdog begins afterwards.
            "timeout": 0,
            # gunicorn itself believes nobody: `eyewall.wsgi` knows whom.
            "forwarded_allow_ips": "",
            "forwarder_headers": "",
            "secure_scheme_headers": {},
            "control_socket_disable": True,
            "on_starting": self._take_sockets,
            "pre_request": self._begin_request,
            "post_request": self._end_request,
        }
        for name, value in settings.items():
            self.cfg.set(name, value)

    def load(self) -> WSGIApplication:
        """Load the application, in the worker. Raises `SystemExit`, which ends the master as well."""
        try:
            options = self.options
            return make(options.target, trusted=options.trusted, max_buffered_body=options.limits.most)
        except Refusal as refusal:
            raise self._refuse(refusal) from None

    def begin(self, worker: "_Worker") -> None:
        """Take the port and the admin path: the application is loaded."""
        options = self.options
        try:
            listen(self._sockets, options.backlog)
        except Refusal as refusal:
            raise self._refuse(refusal) from None
        self._worker = worker
        asyncio.run_coroutine_threadsafe(self._accompany(), worker.wsgi.start()).result()
        log.info(
            "serving %s on %s by WSGI, release %s, generation %s, pid %d",
            options.target, options.where, options.release or "-", options.generation or "-", self._master,
        )  # fmt: skip

    async def _accompany(self) -> None:
        """Start what runs on the loop beside the application."""
        children.hide_loop(asyncio.get_running_loop())
        watchdog = Watchdog(self.options.watchdog)
        ProcessMetrics(self._status, watchdog).register()
        watchdog.start()
        self._status.serving = True
        if self._admin is not None:
            self._admin.start()
            self._task = asyncio.create_task(
                watch_for_successor(
                    self._admin,
                    partial(reparented, self._master, self._parent),
                    self._leave,
                )
            )

    def _leave(self, reason: str) -> None:
        self.reason = reason
        os.kill(self._master, signal.SIGTERM)

    def _refuse(self, refusal: Refusal) -> SystemExit:
        if refusal.__cause__ is not None:
            traceback.print_exception(refusal.__cause__)
        sys.stderr.write(f"eyewall: {refusal}\n")
        return SystemExit(Arbiter.APP_LOAD_ERROR)

    # What `Status` asks for

    @property
    def connections(self) -> int:
        """Open connections that the worker has accepted."""
        return 0 if self._worker is None else int(self._worker.nr_conns)

    @property
    def websockets(self) -> int:
        return 0

    # gunicorn's hooks

    def _take_sockets(self, arbiter: Arbiter) -> None:
        arbiter.LISTENERS = self._sockets
        for listener in self._sockets:
            if listener.family != socket.AF_UNIX:
                # Head and body of an answer are two sends: without this, the second one waits for the first one's
                # acknowledgement, 40 ms (measured: 170 answers per second on kept connections, 850 with it). gunicorn
                # sets it on sockets of its own.
                listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # As with those that systemd gives: gunicorn need not make any, nor remove any path.
        arbiter.systemd = True

    def _begin_request(self, _worker: object, _request: object) -> None:
        with self._lock:
            self.counters.in_flight += 1
        self._started.at = perf_counter()

    def count_malformed(self) -> None:
        with self._lock:
            self.counters.malformed += 1

    def _end_request(self, _worker: object, request: Any, _environ: object, response: Any) -> None:
        code = NO_ANSWER if response is None or not response.status else response.status_code
        with self._lock:
            self.counters.in_flight -= 1
            self.counters.count(request.method, code, perf_counter() - self._started.at)


def _forget_handlers(numbers: Iterable[signal.Signals]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)


class _Logger(Logger):  # type: ignore[misc]
    """gunicorn's messages go the way of all others."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.propagate = True


class _Worker(gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's worker with threads, which leaves as `eyewall.server.Server` does."""

    alive: bool  # whether it was not told to stop

    def init_process(self) -> None:
        self.app.at_exit.pop_all()
        admin = self.app.options.admin
        children.end_left_over(admin)  # by another worker
        children.begin()
        children.in_child(lambda: _forget_handlers(self.SIGNALS))
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        for number in (*self.PIPE, self.poller.fileno(), self.method_queue.fileno(), self.method_queue._write_fd):
            children.hide_file(number)
        # Its handler for SIGUSR1 took the place of ours, which faulthandler believes to be there.
        faulthandler.unregister(signal.SIGUSR1)
        dump_stacks_on_demand()

    def run(self) -> None:
        if self.alive:  # still
            self.app.begin(self)
            # For how long idle connections stay open at the end: gunicorn's two seconds are less than some clients'
            # pause between two requests, and a request on a connection that we are just closing is lost.
            gthread.STOP_KEEPALIVE_LINGER = self.app.drain
            self.cfg.set("graceful_timeout", self.app.drain)
            super().run()
            if self.nr_conns:
                log.warning("drain ends: time is up, %d connections cut", self.nr_conns)
            else:
                log.info("drain ends: the last connection is gone")
            children.end(EXIT_SECONDS / 2)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Count what is no head of a request."""
        if req is None:
            self.app.count_malformed()
        super().handle_error(req, client, addr, exc)

    def is_parent_alive(self) -> bool:
        """Tell whether the master is there; without it, leave as if told to. gunicorn's worker would forget `alive`."""
        if self.alive and not super().is_parent_alive():
            self.app.reason = "gunicorn's master is gone"
            self.alive = False
        return self.alive

    def set_accept_enabled(self, enabled: bool) -> None:
        """Let connections in or not. At the end: take what waits in the accept queue, and close that.

        gunicorn keeps the socket open until its last connection is gone, and the kernel goes on to hand it
        connections, which nobody accepts. Measured: 64 of 8,666 requests lost in 10 handovers without this, 0 of
        41,449 in 40 with it.
        """
        super().set_accept_enabled(enabled)
        if not self.alive and not enabled:
            log.info("drain starts (%s): %d s for %d connections", self.app.reason, self.app.drain, self.nr_conns)
            for listener in self.sockets:
                while select.select([listener], [], [], 0)[0]:
                    self.accept(listener)
                listener.close()
