"""A loop that does not move leaves its stack in the log and the process exits; supervisord starts it again."""

import asyncio
import faulthandler
import gc
import itertools
import logging
import math
import operator
import os
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from time import monotonic, sleep
from types import FrameType

from eyewall import children

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds
# How long a process may take to end once it has drained. With what the last resort takes it is less than the 10 s after which
# supervisord kills it, when nothing that the process started would be told to end first.
EXIT_SECONDS = 8.0
# Frames of a stack that are shown from each of its ends. Python's default limit of recursion is 1,000.
EDGE = 1000
# Seconds in which no other thread has its turn, while stacks are read. Each thread that is busy may take as long before.
UNDISTURBED = 0.2
# How long the stacks may take to write, to a pipe that nobody reads
WRITE_SECONDS = 5.0
# How long the thread may take to have its turn, and to write, until the process exits without it
LAST_RESORT = 10.0


class Watchdog:
    """Watches that the running event loop moves, about once a second.

    A loop moves when it turns, and also when a turn is long but is at another callback than before: a process that
    is busy is not stuck, however slow the host. If neither happens for `seconds`, the stacks of all threads are written to
    stderr, whole, and the process exits with status 1. 0 seconds: no watchdog.

    A thread does that, because a stack is whole only under the GIL. ``faulthandler.dump_traceback_later`` alone reads the
    frames while they change (measured, Python 3.11, 60 processes each: of those busy in recursion, 8 died of SIGSEGV
    instead, and 37 named nothing but the last function), and no more than 100 of them. It is the last resort: it ends the
    process when the thread had no turn for `seconds` (and 10 s), because C code holds the GIL. Frames do not change then.

    The thread counts its own looks, and so does not judge a process that was stopped (SIGSTOP). The last resort is on the
    monotonic clock: a process that was stopped for longer may die on SIGCONT.

    `lag` is by how many seconds the last wake-up was late: how long everything waited for the loop.
    """

    def __init__(self, seconds: float) -> None:
        self.lag = 0.0
        self._seconds = seconds
        self._interval = min(INTERVAL, seconds / 4) if seconds else INTERVAL
        self._due = 0.0
        self._next: asyncio.Handle | None = None
        self._pid = os.getpid()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        # What the thread needs to know of the loop: its thread, how often it beat, and how many frames `_beat` has below it.
        # A callback begins at the same depth.
        self._loop_thread = 0
        self._beats = 0
        self._depth = 0
        # Frames that the thread has seen. What is in them is the loop's to destroy, which need not be possible elsewhere.
        self._seen: list[list[FrameType]] = []

    def start(self) -> None:
        """Start to watch the running loop. Not before the application is loaded: a factory may take its time."""
        loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._due = loop.time()
        # Not called here, where a task is running: `_beat` finds out how deep a callback begins.
        self._next = loop.call_soon(self._beat, loop)
        if self._seconds:
            self._thread = threading.Thread(target=self._watch, name="eyewall watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """Stop to watch."""
        if self._next is not None and os.getpid() == self._pid:
            self._next.cancel()
            if self._thread is not None:
                self._stopped.set()
                self._thread.join()
                faulthandler.cancel_dump_traceback_later()

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        if os.getpid() != self._pid:
            # A child that goes on with our loop: it has no such thread.
            return
        now = loop.time()
        self.lag = max(0.0, now - self._due)
        self._due = now + self._interval
        self._beats += 1
        self._depth = len(_chain(sys._getframe()))
        self._seen.clear()
        if self._seconds and self.lag > self._seconds:
            log.warning("the loop was busy for %.1f s: everything waited, and it moved", self.lag)
        self._next = loop.call_at(self._due, self._beat, loop)

    def _watch(self) -> None:
        # Signals are for the program's threads, which may wait for one.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        most = math.ceil(self._seconds / self._interval)
        beats, still = 0, 0
        while True:
            faulthandler.dump_traceback_later(max(self._seconds, LAST_RESORT), exit=True)
            if self._stopped.wait(self._interval):
                return
            if beats != self._beats:
                beats, still = self._beats, 0
            elif self._moves():
                still = 0
            else:
                still += 1
            if still >= most:
                faulthandler.dump_traceback_later(LAST_RESORT, exit=True)
                write_stacks(
                    f"Timeout ({timedelta(seconds=self._seconds)})! The event loop does not move.", self._loop_thread
                )
                os._exit(1)

    def _moves(self) -> bool:
        """Tell whether the loop, which is late, is at another callback than the last time it was."""
        chain = _chain(sys._current_frames().get(self._loop_thread))
        # The frame of the callback, or, where that is C code, the one that called it: asyncio has one for each.
        begin = max(len(chain) - self._depth, 0)
        here = chain[begin : begin + 2]
        before = self._seen[-1:]  # `_beat` may clear it at any time
        self._seen.append(here)
        return bool(before) and before != [here]


def dump_stacks_on_demand() -> None:
    """Dump all stacks to stderr when the process crashes, or on SIGUSR1 (and go on then).

    This is faulthandler's: also when C code holds the GIL, and no more than 100 frames of each stack.
    """
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)


def limit_exit() -> None:
    """Give the interpreter a time to exit in: it waits forevery thread, and a thread may hang forever."""
    exit_in(EXIT_SECONDS, 1, f"{EXIT_SECONDS:g} s after its end the process is still here; it is ended")
    # At the very end the interpreter runs no other thread.
    faulthandler.dump_traceback_later(EXIT_SECONDS + children.GONE_SECONDS + 0.5, exit=True)


def exit_in(seconds: float, status: int, why: str, first: Callable[[], object] | None = None) -> threading.Timer:
    """End this process with `status` in so many seconds, unless the timer is cancelled; `why` goes to stderr.

    For a program that we cannot trust to end, or to begin: neither a loop nor its main thread is needed.
    `first` is called before.
    """

    def leave() -> None:
        if first is not None:
            first()
        write_stacks("The stack of each thread:", threading.main_thread().ident)
        # last, so that it is among the last lines
        sys.stderr.write(f"eyewall: {why}\n")
        children.end(0)
        logging.shutdown()
        os._exit(status)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    return timer


def write_stacks(title: str, last: int | None = None) -> None:
    """Write `title` and the stacks of all other threads to stderr, that of the thread `last` at the end.

    Innermost frame last, as in any traceback of Python's. Of a stack of more than two `EDGE`, the middle is left out. For a
    process that is about to exit: it stays without garbage collection.
    """
    # A collection may run Python code (gc.callbacks), and so let another thread go on, in the middle of a stack.
    gc.disable()
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    # Another thread asks for the GIL when it has waited for this long, and begins to wait again whenever the GIL changes hands
    # (Python/ceval_gil.c), as it does here: until then no frame that was found goes on, nor does a generator lose its caller.
    usual = sys.getswitchinterval()
    sys.setswitchinterval(UNDISTURBED)
    sleep(0.001)
    stacks = {
        # In one call of C, so that the thread, which may be busy, does not go on meanwhile.
        thread: list(map(operator.attrgetter("f_code", "f_lineno"), _up(frame)))
        for thread, frame in sys._current_frames().items()
        if thread != threading.get_ident()
    }
    sys.setswitchinterval(usual)
    lines = [f"{title}\n"]
    for thread in sorted(stacks, key=lambda thread: thread == last):
        lines.append(f"\nThread {thread:#x}, {names.get(thread, 'not of Python')} (most recent call last):\n")
        frames = [
            traceback.FrameSummary(code.co_filename, line, code.co_name, lookup_line=False)
            for code, line in reversed(stacks[thread])
        ]
        if (left_out := len(frames) - 2 * EDGE) > 0:
            lines += traceback.StackSummary.from_list(frames[:EDGE]).format()
            lines.append(f"  ... {left_out} frames are left out ...\n")
            frames = frames[-EDGE:]
        lines += traceback.StackSummary.from_list(frames).format()
    _write("".join(lines).encode(errors="backslashreplace"))


def _write(data: bytes) -> None:
    """Write to stderr, which may be a pipe that nobody reads: for no longer than `WRITE_SECONDS`."""
    file = sys.stderr.fileno()
    ready = select.poll()
    ready.register(file, select.POLLOUT)
    deadline = monotonic() + WRITE_SECONDS
    while data and ready.poll(max(0.0, 1000 * (deadline - monotonic()))):
        # What a pipe that is ready takes without blocking (pipe(7))
        data = data[os.write(file, data[: select.PIPE_BUF]) :]


def _chain(frame: FrameType | None) -> list[FrameType]:
    return list(_up(frame))


def _up(frame: FrameType | None) -> Iterator[FrameType]:
    """Return an iterator over a frame, its caller, and so on. All of it is C, and holds the GIL."""
    return itertools.takewhile(operator.truth, itertools.accumulate(itertools.repeat("f_back"), getattr, initial=frame))
