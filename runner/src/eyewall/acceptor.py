"""Letting connections in while there are open files for them.

Tornado's own accept handler fails when the process has no file left, and the loop calls it again at once: half a
CPU goes into tracebacks while clients hang (measured, Tornado 6.6). Here the process stops accepting a little earlier.
"""

import asyncio
import contextlib
import errno
import logging
import os
import resource
import socket
from collections.abc import Callable
from typing import Any

from eyewall.counters import Counters

log = logging.getLogger(__name__)

# Files that connections do not get: for the admin socket, and for what the application opens. Of a small limit, a quarter.
RESERVE = 32
CHECK = 0.1  # seconds
# At the limit connections come and go, and accepting pauses many times a second. That is one time at the limit, with
# one line in the log at its begin and one at its end, until it has not paused for so long.
CALM = 5.0  # seconds
# How many connections are accepted before others have their turn, as tornado.netutil.add_accept_handler does.
ACCEPTS = 128
# accept(2): no file for this process, none for the whole system, no memory.
SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Acceptor:
    """Accepts connections on the listening sockets of a process, and pauses while open files are short.

    What comes during a pause waits in the accept queue (``--backlog``), and is accepted when others have gone. The
    kernel gives it to no other process on the port. `counters` counts the pauses. The queue is `shared` as long as other
    processes accept from it.
    """

    def __init__(self, counters: Counters, shared: Callable[[], bool] = lambda: False) -> None:
        self._counters = counters
        self._shared = shared
        self._handlers: dict[socket.socket, Callable[[socket.socket, Any], None]] = {}
        # The kernel gives the lowest free number: an open file of this number or above says that those below are taken.
        self._mark = self._limit = 0
        self._paused = False
        self._pauses = 0  # since the files got short; 0: they are not
        self._short_since = 0.0
        self._resumed = 0.0

    def add(self, listener: socket.socket, handle: Callable[[socket.socket, Any], None]) -> Callable[[], None]:
        """Be ``tornado.netutil.add_accept_handler``: call `handle` with each connection; return what ends that."""
        loop = asyncio.get_running_loop()
        self._handlers[listener] = handle
        if not self._paused:
            loop.add_reader(listener, self._accept, listener)

        def remove() -> None:
            del self._handlers[listener]
            loop.remove_reader(listener)

        return remove

    def leave(self, listener: socket.socket) -> None:
        """Close a socket, and let nobody have its queue who has a copy of it: a child that C code forked would leave it full."""
        if not self._shared():
            with contextlib.suppress(OSError):  # another server's of this process was the first
                listener.shutdown(socket.SHUT_RD)
        listener.close()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS):
            handle = self._handlers.get(listener)
            if handle is None:
                return
            try:
                connection, address = listener.accept()
            except BlockingIOError:
                return
            except ConnectionAbortedError:
                continue
            except OSError as error:
                if error.errno == errno.EINVAL:  # another process of the group has left the port, and so will this one
                    return
                if error.errno not in SHORT:
                    raise
                self._pause(str(error.strerror))
                return
            short = connection.fileno() >= self._mark
            handle(connection, address)
            if short and not self._has_room():
                self._pause(f"{self._mark} open files of {self._limit} are taken, the others are reserved")
                return

    def _has_room(self) -> bool:
        """Tell whether as many files as are reserved are free for connections; find the mark again (prlimit(1))."""
        self._limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        reserve = min(RESERVE, self._limit // 4)
        self._mark = self._limit - reserve
        taken: list[int] = []
        try:
            for _ in range(reserve):
                taken.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            return False
        finally:
            for number in taken:
                os.close(number)
        return taken[-1] < self._mark

    def _pause(self, why: str) -> None:
        loop = asyncio.get_running_loop()
        self._paused = True
        self._counters.accept_pauses += 1
        for listener in self._handlers:
            loop.remove_reader(listener)
        self._pauses += 1
        if self._pauses == 1:
            self._short_since = loop.time()
            log.warning("no connections are accepted (%s): new ones wait in the queue until others have gone", why)
            loop.call_later(CHECK, self._check)

    def _check(self) -> None:
        loop = asyncio.get_running_loop()
        if self._paused:
            if self._handlers and self._has_room():
                self._paused = False
                self._resumed = loop.time()
                for listener in self._handlers:
                    loop.add_reader(listener, self._accept, listener)
        elif loop.time() - self._resumed >= CALM:
            log.info(
                "connections are accepted again: open files were short for %.1f s, with %d pauses",
                self._resumed - self._short_since, self._pauses,
            )  # fmt: skip
            self._pauses = 0
            return
        loop.call_later(CHECK, self._check)
