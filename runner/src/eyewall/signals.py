"""SIGTERM and SIGINT: ours come first, and what the program set for them afterwards.

A program nobody changed has signal handlers of its own, set with `signal.signal` before its server starts
(Flower, Jupyter Server), with ``loop.add_signal_handler`` after that (Bokeh), or by `asyncio.run`. Each of
them stops the loop, and with it all requests. So while a program runs under eyewall, these functions only
note what it wants for the two signals. When the drain is over, the signal is sent again and gets there.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from eyewall import children

log = logging.getLogger(__name__)

HANDLED = (signal.SIGTERM, signal.SIGINT)

_DEFAULTS: dict[int, Any] = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}

_set = signal.signal  # as it was before `Signals.take_over`


class Signals:
    """What SIGTERM and SIGINT do in this process; used from its main thread."""

    def __init__(self) -> None:
        self._begin: Callable[[str], object] | None = None
        self._pid = 0
        self._told = False
        self._passing = False
        self._number = signal.SIGTERM
        self._programs: dict[int, Any] = dict(_DEFAULTS)
        # Those that the program handles on its loop, which no child has.
        self._on_loop: set[int] = set()
        self._left = False
        children.in_child(self._leave)

    def begin_with(self, begin: Callable[[str], object]) -> None:
        """Let the first signal call `begin` with its name, and the second end the process at once."""
        self._begin = begin
        # The loop of a program may be in another thread; what `take_over` set is still there then.
        if threading.current_thread() is threading.main_thread():
            self._own()

    def take_over(self) -> None:
        """Keep the program from setting its own handlers; what it sets is noted."""
        self._own()
        setattr(signal, "signal", self._signal)  # noqa: B010 - mypy wants no assignment to a module's function
        setattr(signal, "getsignal", self._getsignal)  # noqa: B010
        for loop in loop_classes():
            self._take_over_loop(loop)

    def become_child(self) -> None:
        """Forget, after a fork, what the parent does: nothing is held back until `begin_with`."""
        self._begin = None
        self._pid = os.getpid()

    def pass_on(self) -> None:
        """Give the signal that was held back to the program; called on the loop, when the drain is over.

        Without a handler of its own the program ends as by ``sys.exit(0)``, so that its ``finally`` blocks and
        `atexit` run; SIGTERM alone would run none of them.
        """
        self._told = self._passing = True
        # Sent again rather than called: Python runs handlers in the main thread, wherever the loop is.
        os.kill(os.getpid(), self._number)

    def _leave(self) -> None:
        """Leave the signals to what the program does with them, in a child that it forked: there is nothing to drain."""
        self._left = True
        for number, handler in self._programs.items():
            _set(number, signal.SIG_DFL if number in self._on_loop else handler)

    def _own(self) -> None:
        self._pid = os.getpid()
        for number in HANDLED:
            _set(number, self._arrived)

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        # A child has nothing to drain.
        if self._begin is None or os.getpid() != self._pid:
            self._programs_turn(number, frame, signal.SIG_DFL)
        elif self._passing:
            self._passing = False
            self._programs_turn(number, frame, _exit)
        # the first one counts as such also when an orphan drains already (see eyewall.succession)
        elif self._told:
            log.warning("second %s: exit at once", signal.Signals(number).name)
            children.end(0)
            logging.shutdown()
            os._exit(128 + number)
        else:
            self._told = True
            self._number = signal.Signals(number)
            self._begin(self._number.name)

    def _programs_turn(self, number: int, frame: FrameType | None, otherwise: Any) -> None:
        handler = self._programs[number]
        if not callable(handler):
            handler = otherwise
        if callable(handler):
            handler(number, frame)
        elif self._programs[number] is signal.SIG_DFL:
            _set(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    # What the program calls

    def _signal(self, number: int, handler: Any) -> Any:
        if number not in HANDLED or self._left:
            return _set(number, handler)
        if threading.current_thread() is not threading.main_thread():
            raise ValueError("signal only works in main thread of the main interpreter")
        if not callable(handler) and handler not in (signal.SIG_DFL, signal.SIG_IGN):
            raise TypeError("signal handler must be signal.SIG_IGN, signal.SIG_DFL, or a callable object")
        before, self._programs[number] = self._programs[number], handler
        self._on_loop.discard(number)
        return before

    def _getsignal(self, number: int) -> Any:
        return self._programs[number] if number in HANDLED and not self._left else _getsignal(number)

    def _take_over_loop(self, loop: Any) -> None:
        add, remove = loop.add_signal_handler, loop.remove_signal_handler

        def add_signal_handler(self_: Any, number: int, callback: Callable[..., Any], *args: Any) -> None:
            if number not in HANDLED or self._left:
                add(self_, number, callback, *args)
            else:
                self._programs[number] = lambda *_: self_.call_soon_threadsafe(callback, *args)
                self._on_loop.add(number)

        def remove_signal_handler(self_: Any, number: int) -> bool:
            if number not in HANDLED or self._left:
                return bool(remove(self_, number))
            before, self._programs[number] = self._programs[number], _DEFAULTS[number]
            self._on_loop.discard(number)
            return before is not self._programs[number]

        loop.add_signal_handler = add_signal_handler
        loop.remove_signal_handler = remove_signal_handler


_getsignal = signal.getsignal


def _exit(*_: object) -> None:
    raise SystemExit(0)


def loop_classes() -> list[Any]:
    """The classes of event loop that a program may have."""
    classes: list[Any] = [asyncio.SelectorEventLoop]
    try:
        import uvloop  # noqa: PLC0415 - whoever asks for --no-uvloop need not have it
    except ImportError:
        pass
    else:
        classes.append(uvloop.Loop)
    return classes
