"""Many connections, of which a few are handled in each turn of the loop.

uvloop and asyncio call the handler of every connection that has something to read before they turn. When 8,000 WebSockets
leave at once, a small request waits until each of them is closed: 2.0 s, and 0.14 s here (measured by benchmarks/leaving.py,
Python 3.11, Tornado 6.6, uvloop, a busy machine with 2 cores). The loop has no way to take fewer, so the connections are
watched by an epoll(7) that is one file for it.
"""

import asyncio
import select
from collections import deque
from collections.abc import Callable
from typing import Any

from tornado.ioloop import IOLoop

from eyewall.children import hide_file

FEW = 256  # connections that are left to the loop
SLICE = 32  # connections that end in one turn
EVENTS = 256  # that are looked at in one turn
TURNS = 100  # for which those that have left wait while there is more to be looked at
LEAVES = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class Crowd:
    """Be the `IOLoop` of many streams, and the loop of many connections: watch them by an epoll(7).

    The loop itself watches that one. What a client sends is handled as soon as it is seen. A client that has left can wait:
    `SLICE` of them have their turn when the others have been seen. Everything else is the `IOLoop`'s.
    """

    READ, WRITE, ERROR = IOLoop.READ, IOLoop.WRITE, IOLoop.ERROR  # epoll's own numbers

    def __init__(self) -> None:
        self._io_loop = IOLoop.current()
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[Any, int], object]] = {}
        self._events: dict[int, int] = {}  # what each wants to know; those that want nothing are not watched
        # Those that have left are not watched either: they would be seen in each turn.
        self._left: set[int] = set()
        self._queue: deque[int] = deque()
        self._more = self._ending = False
        self._turns = 0
        # Of connections, which have no handler but a reader and a writer, as the loop has them. They are called in no context of
        # their own, for that is memory of each that is idle.
        self._readers: dict[int, Callable[[], object]] = {}
        self._writers: dict[int, Callable[[], object]] = {}
        hide_file(self._epoll.fileno())
        self._loop.add_reader(self._epoll.fileno(), self._look)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._io_loop, name)

    # What a stream calls

    def add_handler(self, file: Any, handler: Callable[[Any, int], object], events: int) -> None:
        number = _number(file)
        self._handlers[number], self._events[number] = handler, 0
        self._watch(number, events, select.EPOLLRDHUP)

    def update_handler(self, file: Any, events: int) -> None:
        number = _number(file)
        if number in self._left:
            self._events[number] = events
        else:
            self._watch(number, events, select.EPOLLRDHUP)

    def remove_handler(self, file: Any) -> None:
        number = _number(file)
        if number in self._handlers:  # IOStream.start_tls removes one that may not have been added
            self._forget(number)
            del self._handlers[number]

    def _forget(self, number: int) -> None:
        if number in self._left:
            self._left.discard(number)
        else:
            self._watch(number, 0)
        del self._events[number]

    def _watch(self, number: int, events: int, more: int = 0) -> None:
        before, events = self._events[number], events & (self.READ | self.WRITE)
        self._events[number] = events
        if not events:
            if before:
                self._epoll.unregister(number)
        elif before:
            self._epoll.modify(number, events | more)
        else:
            self._epoll.register(number, events | more)

    # What a connection calls, as it would call the loop

    def add_reader(self, number: int, callback: Callable[[], object]) -> None:
        self._readers[number] = callback
        self._update(number)

    def add_writer(self, number: int, callback: Callable[[], object]) -> None:
        self._writers[number] = callback
        self._update(number)

    def remove_reader(self, number: int) -> None:
        del self._readers[number]
        self._update(number)

    def remove_writer(self, number: int) -> None:
        del self._writers[number]
        self._update(number)

    def _update(self, number: int) -> None:
        events = (self.READ if number in self._readers else 0) | (self.WRITE if number in self._writers else 0)
        if events:
            self._events.setdefault(number, 0)
            self.update_handler(number, events)
        else:
            self._forget(number)

    def _handle(self, number: int, events: int) -> None:
        if (handler := self._handlers.get(number)) is not None:
            handler(number, events)
            return
        if events & self.READ and (callback := self._readers.get(number)) is not None:
            callback()
        if events & self.WRITE and (callback := self._writers.get(number)) is not None:
            callback()

    # What the loop calls

    def _look(self) -> None:
        seen = self._epoll.poll(0, EVENTS)
        self._more = len(seen) == EVENTS
        try:
            for number, events in seen:
                if not self._events.get(number):
                    continue  # one of those before has closed it
                if events & LEAVES:
                    self._epoll.unregister(number)
                    self._left.add(number)
                    self._queue.append(number)
                else:
                    self._handle(number, events)
        finally:
            self._go_on()

    def _go_on(self) -> None:
        if self._queue and not self._ending:
            self._ending = True
            self._loop.call_soon(self._end_some)

    def _end_some(self) -> None:
        self._ending = False
        self._turns += 1
        if self._more and self._turns < TURNS:
            self._go_on()
            return
        self._turns = 0
        try:
            for _ in range(min(SLICE, len(self._queue))):
                self._end(self._queue.popleft())
        finally:
            self._go_on()

    def _end(self, number: int) -> None:
        if number not in self._left:
            return  # it was closed meanwhile; another one may have its number
        self._handle(number, self._events[number])
        if number in self._left:
            self._left.discard(number)
            events, self._events[number] = self._events[number], 0
            # Once told that its client has left, it is told no more: it may have something to send still.
            self._watch(number, events)


def _number(file: Any) -> int:
    return file if isinstance(file, int) else int(file.fileno())
