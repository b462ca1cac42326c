"""A blocked loop leaves its stack in the log and dies; supervisord starts it again."""

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable

from eyewall import children

INTERVAL = 1.0  # seconds
EXIT_SECONDS = 10.0


class Watchdog:
    """Re-arms ``faulthandler.dump_traceback_later(seconds, exit=True)`` from the loop, about once a second.

    The timer is a thread in C that needs no GIL: a loop that hangs in C code is caught as well. The process
    ends with status 1 and the stacks of all its threads on stderr. 0 seconds: no watchdog.

    The timer is on the monotonic clock: a process that SIGSTOP stopped for longer dies on SIGCONT.

    `lag` is by how many seconds the last wake-up was late: how long everything waited for the loop.
    """

    def __init__(self, seconds: float) -> None:
        self.lag = 0.0
        self._seconds = seconds
        self._interval = min(INTERVAL, seconds / 4) if seconds else INTERVAL
        self._due = 0.0
        self._next: asyncio.TimerHandle | None = None
        self._pid = os.getpid()

    def start(self) -> None:
        """Start to watch. Not before the application is loaded: a factory may take its time."""
        loop = asyncio.get_running_loop()
        self._due = loop.time()
        self._beat(loop)

    def stop(self) -> None:
        """Stop to watch."""
        if self._next is not None and os.getpid() == self._pid:
            self._next.cancel()
            faulthandler.cancel_dump_traceback_later()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if os.getpid() != self._pid:
            # A child that goes on with our loop: it has no such timer, and would wait for it.
            return
        now = loop.time()
        self.lag = max(0.0, now - self._due)
        self._due = now + self._interval
        if self._seconds:
            faulthandler.dump_traceback_later(self._seconds, exit=True)
        self._next = loop.call_at(self._due, self._beat, loop)


def dump_stacks_on_demand() -> None:
    """Dump all stacks to stderr when the process crashes, or on SIGUSR1 (and go on then)."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)


def limit_exit() -> None:
    """Give the interpreter a time to exit in: it waits for every thread, and a thread may hang for ever."""
    faulthandler.dump_traceback_later(EXIT_SECONDS, exit=True)


def exit_in(seconds: float, status: int, why: str, first: Callable[[], object] | None = None) -> threading.Timer:
    """End this process with `status` in so many seconds, unless the timer is cancelled; `why` goes to stderr.

    For a program that we cannot trust to end, or to begin: neither a loop nor its main thread is needed.
    `first` is called before.
    """

    def leave() -> None:
        if first is not None:
            first()
        faulthandler.dump_traceback()
        # last, so that it is among the last lines
        sys.stderr.write(f"eyewall: {why}\n")
        children.end(0)
        logging.shutdown()
        os._exit(status)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    return timer
