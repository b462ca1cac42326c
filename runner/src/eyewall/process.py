"""One process, from its application's import to its last connection."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
from dataclasses import dataclass
from pathlib import Path

from tornado import autoreload
from tornado.web import Application

from eyewall.admin import Admin, Status
from eyewall.drain import Drain
from eyewall.limits import capped_backlog
from eyewall.listen import UNIX, listen
from eyewall.metrics import ProcessMetrics
from eyewall.orphan import watch_for_successor
from eyewall.proxies import Proxies
from eyewall.server import Server
from eyewall.target import load
from eyewall.traffic import Traffic
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
    debug: bool


async def serve(options: Options, parent: int) -> None:
    """Serve until told to stop, and return when the drain has ended.

    Nothing is taken over from a process that serves already (neither the port nor the admin path) until
    the application is loaded: a release that cannot be loaded disturbs nobody.

    `parent` is the pid of the process that started this one. Raises `eyewall.errors.Refusal`.
    """
    application = await load(options.target)
    if options.debug:
        set_debug(application)
    else:
        # What is loaded now stays: the collector need not walk it again (measured: 4 to 14 % faster).
        gc.collect()
        gc.freeze()

    server = Server(application, traffic=Traffic(), proxies=Proxies(options.trusted))
    drain = Drain(server, options.drain)
    watchdog = Watchdog(options.watchdog)
    status = Status(
        server=server,
        draining=lambda: drain.draining,
        port=options.port,
        address=options.address,
        release=options.release,
        generation=options.generation,
    )
    ProcessMetrics(status, watchdog).register()
    if (backlog := capped_backlog(options.backlog)) < options.backlog:
        log.warning("--backlog %d is capped at %d by net.core.somaxconn", options.backlog, backlog)

    with contextlib.ExitStack() as at_exit:
        admin = None
        if options.admin is not None:
            admin = Admin(options.admin, status)
            at_exit.callback(admin.stop)
            admin.bind()
        _drain_on_signals(drain)
        sockets = listen(options.address, options.port, options.backlog, at_exit)
        # From here on connections arrive, and nothing may fail any more.
        server.add_sockets(sockets)
        if admin is not None:
            admin.start()
            orphan = asyncio.create_task(watch_for_successor(admin, parent, drain.begin))
            at_exit.callback(orphan.cancel)
        watchdog.start()
        at_exit.callback(watchdog.stop)
        status.serving = True
        where = options.address if options.address.startswith(UNIX) else f"{options.address}:{options.port}"
        log.info(
            "serving %s on %s, release %s, generation %s, pid %d",
            options.target, where, options.release or "-", options.generation or "-", os.getpid(),
        )  # fmt: skip
        await drain.finish()


def set_debug(application: Application) -> None:
    """Do what ``Application(debug=True)`` does: its four settings, each only where it is not set already."""
    settings = application.settings
    settings.setdefault("autoreload", True)
    settings.setdefault("compiled_template_cache", False)
    settings.setdefault("static_hash_cache", False)
    settings.setdefault("serve_traceback", True)
    if settings["autoreload"]:
        autoreload.start()


def _drain_on_signals(drain: Drain) -> None:
    told = False

    def handle(number: signal.Signals) -> None:
        nonlocal told
        # the first one counts as such also when an orphan drains already (see eyewall.orphan)
        if told:
            log.warning("second %s: exit at once", number.name)
            logging.shutdown()
            os._exit(128 + number)
        told = True
        drain.begin(number.name)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, handle, number)
