"""Leaving without losing anything."""

import asyncio
import logging
import math

from eyewall.counters import Counters
from eyewall.crowd import SLICE
from eyewall.server import Servers

log = logging.getLogger(__name__)

TICK = 0.1  # seconds
# WebSockets are told at least this fast, so that few of them do not hold up a deploy.
MIN_WEBSOCKETS_PER_SECOND = 20.0
# How long a process that has drained on the admin socket's demand waits for its signal, before it leaves by itself.
PATIENCE = 30.0


class Drain:
    """Empties the servers: `begin` or `ask` once, then `finish`.

    A signal may never reach us: a program takes it with ``signal.sigwait``, blocks it (``pthread_sigmask``), or sets a handler
    that is not Python's (GLib, ``signalfd``). So whoever stops a process may `ask` first, on the admin socket, and send
    the signal when it has `drained`.

    `seconds` is the time that connections have. Idle kept-alive connections are never closed before it is
    up: nginx closes its own (its upstream ``keepalive_timeout`` is shorter), and closing one from here
    while a POST is on its way loses that POST (measured: 252 of 72,153).
    """

    def __init__(self, servers: Servers, counters: Counters, seconds: float) -> None:
        self._servers = servers
        self._counters = counters
        self._seconds = seconds
        self._begun = asyncio.Event()
        self._may_leave = asyncio.Event()
        self.drained = False

    @property
    def draining(self) -> bool:
        return self._begun.is_set()

    def begin(self, reason: str) -> None:
        """Start to drain, and leave then; again is harmless. The rest happens in `finish`, which waits for this."""
        self.ask(reason)
        self._may_leave.set()

    def ask(self, reason: str) -> None:
        """Start to drain, and wait then for `begin`."""
        if not self.draining:
            log.info("drain starts (%s): %d s for %d connections", reason, self._seconds, self._servers.connections)
            self._begun.set()

    async def finish(self) -> int:
        """Wait for `begin` or `ask`, then until the last connection is gone or time is up; return the number cut."""
        await self._begun.wait()
        loop = asyncio.get_running_loop()
        servers = self._servers
        start = loop.time()
        # In this order: what comes out of the accept queue must end with its first answer, too.
        servers.end_keep_alive()
        servers.stop()
        # The last WebSocket is told at half time: its close handshake and its client's next connection
        # take time as well.
        window = max(self._seconds / 2, TICK)
        rate = max(MIN_WEBSOCKETS_PER_SECOND, servers.websockets_untold / window)
        told = 0
        while servers.connections and (passed := loop.time() - start) < self._seconds:
            # Those that were upgraded since the start have no share in the rate; after half time all are due.
            untold = servers.websockets_untold
            due = min(untold, math.ceil(rate * (passed + TICK)) - told) if passed < window else untold
            told += servers.close_websockets(min(due, SLICE))
            await asyncio.sleep(0 if due > SLICE else TICK)
        # None is cut that was not told, on a host that is slow.
        while servers.close_websockets(SLICE):  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(0)
        cut = servers.connections
        passed = loop.time() - start
        if cut:
            log.warning(
                "drain ends: time is up after %.1f s, %d connections cut, requests in flight: %d",
                passed, cut, self._counters.in_flight,
            )  # fmt: skip
            await servers.cut()
        else:
            log.info("drain ends: the last connection is gone after %.1f s", passed)
        self.drained = True
        try:
            await asyncio.wait_for(self._may_leave.wait(), PATIENCE)
        except TimeoutError:
            log.warning("no signal within %g s after the drain: leaving all the same", PATIENCE)
        return cut
