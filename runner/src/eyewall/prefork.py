"""Fork mode: one port, several processes, by Tornado's own ``fork_processes``.

The parent binds the port and forks; it supervises (Tornado does) and answers nobody. The children share one
accept queue. What one process does by itself, the group does as a whole:

**Told to stop**, the parent leaves the port to the children and closes a pipe that each of them watches: that
is their SIGTERM. The same happens when the parent is killed, so no child is left over: each drains and goes.
The parent exits with 0 when all are gone.

**The admin socket** of child N is ``<path>.<N>``. Child 0 answers for the group at the path itself: it asks
all the others. The group is ready when all of its children are.

**A child that dies** is forked again, up to Tornado's ``max_restarts``; but while no child serves, one that
cannot start ends the group: its successor could not start either.
"""

import asyncio
import contextlib
import json
import logging
import mmap
import os
import select
import signal
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import sleep
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from tornado.ioloop import IOLoop
from tornado.process import cpu_count, fork_processes

from eyewall.admin import Status
from eyewall.errors import Refusal
from eyewall.signals import Signals
from eyewall.succession import reparented

log = logging.getLogger(__name__)

ASK_SECONDS = 5.0
# How long a child that cannot start waits before the parent forks another.
RESTART_SECONDS = 1.0

_NEW, _SERVES, _REFUSED = range(3)


class Prefork:
    """The processes on `sockets`, which are bound and not yet listening; `stop` the parent with `signals`.

    `size`: how many; 0 or less is one per CPU. `parent` is the pid of the process that started the group. It is the
    `eyewall.membership.Membership` of each of them.
    """

    forked = True

    def __init__(self, size: int, sockets: list[socket.socket], signals: Signals, parent: int) -> None:
        self.size = size if size > 0 else cpu_count()
        self.sockets = sockets
        self.number = 0
        self.pid = os.getpid()
        self.status: int | None = None
        self._signals = signals
        self._grandparent = parent
        self._end, self._alive = os.pipe()
        # What each child has become, in bytes that all of them share.
        self._states = mmap.mmap(-1, self.size)
        self._ends = False

    def fork(self, max_restarts: int | None = None) -> None:
        """Fork; returns in each child. In the parent it raises `SystemExit` when all children are gone.

        Raises `Refusal` if there is an event loop: its epoll descriptor would be shared by all the children.
        """
        if any(not loop.is_closed() for loop in IOLoop._ioloop_for_asyncio):
            raise Refusal(
                "cannot run in multiple processes: an IOLoop instance has already been initialized; "
                "nothing may touch the event loop before the fork (fork_processes, HTTPServer.start)"
            )
        self._signals.begin_with(self._told)
        try:
            self.number = fork_processes(self.size, max_restarts)
        except SystemExit:
            self.status = 2 if _REFUSED in self._states[:] else 0
            raise SystemExit(self.status) from None
        if self._ends:
            # The parent was told to stop, and a child died meanwhile: Tornado forks another, which is not wanted.
            os._exit(0)
        self._signals.become_child()
        os.close(self._alive)
        self._states[self.number] = _NEW

    def _told(self, reason: str) -> None:
        log.info("the group of %d stops (%s)", self.size, reason)
        self._ends = True
        for listener in self.sockets:
            listener.close()
        os.close(self._alive)

    # What a child calls

    def bind(self, _address: str, _port: int, _backlog: int, _at_exit: contextlib.ExitStack) -> list[socket.socket]:
        """Return the parent's sockets, which are bound."""
        return self.sockets

    def shares_port(self) -> bool:
        """Tell whether this child leaves the port to the others: unless all of them leave."""
        return not self.ends()

    def statuses(self, path: Path, status: Status) -> Sequence[tuple[Path, Status]]:
        """Return this child's admin socket, beside the group's `path`, and of the first child the group's, too."""
        found = [(_of_child(path, self.number), status)]
        if self.leads():
            found.append((path, GroupStatus(**vars(status), group=self, path=path)))
        return found

    def watch(self, drain: Callable[[str], None]) -> None:
        """Call `drain` when the parent was told to stop, or is gone; on the running loop."""
        loop = asyncio.get_running_loop()

        def ended() -> None:
            loop.remove_reader(self._end)
            drain("the group stops")

        loop.add_reader(self._end, ended)

    def ends(self) -> bool:
        """Tell whether the parent was told to stop, or is gone."""
        poll = select.poll()
        poll.register(self._end, 0)
        return bool(poll.poll(0))

    def serves(self) -> None:
        """Note that this child has started: the group can."""
        self._states[self.number] = _SERVES

    def serving(self, number: int) -> bool:
        """Tell whether child `number` has started, and so has its admin path, where a predecessor's may still be."""
        return self._states[number] == _SERVES

    def refuse(self) -> bool:
        """End the group if none of it serves; tell whether this child is the one to say why."""
        states = self._states[:]
        if _SERVES in states:
            sleep(RESTART_SECONDS)
            return True
        self._states[self.number] = _REFUSED
        if _REFUSED in states:
            return False
        self.stop("a child cannot start")
        return True

    def stop(self, _reason: str) -> None:
        """Tell the parent to stop."""
        if os.getppid() == self.pid:
            os.kill(self.pid, signal.SIGTERM)

    def leads(self) -> bool:
        """Tell whether this is the first child."""
        return self.number == 0

    def orphaned(self) -> bool:
        """Tell whether the process that started the group is gone."""
        return reparented(self.pid, self._grandparent)

    def leave(self, _drain: Callable[[str], None], reason: str) -> None:
        """Let all of the group drain."""
        self.stop(reason)


@dataclass(kw_only=True)
class GroupStatus(Status):
    """The status of a `Prefork`, asked of all its children at the time; `path` is the group's admin socket."""

    group: Prefork
    path: Path

    async def readiness(self) -> dict[str, Any]:
        states = [answer.get("state", "starting") for answer in await self._json("/ready")]
        state = next((state for state in ("draining", "starting") if state in states), "ready")
        return await super().readiness() | {"state": state, "pid": self.group.pid}

    async def full(self) -> dict[str, Any]:
        children = await self._json("/status")
        sums = ("connections", "websockets", "requests", "requests_in_flight")
        # Each has a limit of its own, so the one that is closest to it matters.
        return (
            await super().full()
            | await self.readiness()
            | {name: sum(child.get(name, 0) for child in children) for name in sums}
            | {"open_files": max(child.get("open_files", 0) for child in children), "processes": children}
        )

    async def metrics(self) -> bytes:
        """Every child's metrics, with a label ``process``: its number."""
        registry = CollectorRegistry()
        registry.register(_Merged(await self._ask("/metrics")))
        return generate_latest(registry)

    async def _json(self, what: str) -> list[dict[str, Any]]:
        return [json.loads(body) if body else {} for body in await self._ask(what)]

    async def _ask(self, what: str) -> list[bytes]:
        return await asyncio.gather(*(self._ask_child(number, what) for number in range(self.group.size)))

    async def _ask_child(self, number: int, what: str) -> bytes:
        return await _get(_of_child(self.path, number), what) if self.group.serving(number) else b""


class _Merged(Collector):
    def __init__(self, texts: list[bytes]) -> None:
        self._texts = texts

    def collect(self) -> Any:
        families: dict[str, Any] = {}
        for number, text in enumerate(self._texts):
            for family in text_string_to_metric_families(text.decode()):
                merged = families.setdefault(family.name, family)
                samples = [s._replace(labels=s.labels | {"process": str(number)}) for s in family.samples]
                merged.samples = samples if merged is family else merged.samples + samples
        return families.values()


def _of_child(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")


async def _get(path: Path, what: str) -> bytes:
    """GET from a child's admin socket; empty if it does not answer."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(ASK_SECONDS):
            reader, writer = await asyncio.open_unix_connection(path)
            try:
                writer.write(f"GET {what} HTTP/1.0\r\n\r\n".encode())
                return (await reader.read()).partition(b"\r\n\r\n")[2]
            finally:
                writer.close()
    return b""
