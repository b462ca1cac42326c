"""What a process shares with others on its port: nothing, or everything with those of its group (`eyewall.prefork`)."""

import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from eyewall.admin import Status
from eyewall.sockets import bind


class Membership(Protocol):
    """What a `Process` asks of its place among the processes of its port."""

    forked: bool  # whether it is one of several
    status: int | None  # the exit status of a group's parent, once its children are gone

    def bind(self, address: str, port: int, backlog: int, at_exit: contextlib.ExitStack) -> list[socket.socket]:
        """Return the port's sockets; what they need at the end is done by `at_exit`."""

    def shares_port(self) -> bool:
        """Tell whether others go on accepting on the same sockets when this process drains."""

    def statuses(self, path: Path, status: Status) -> Sequence[tuple[Path, Status]]:
        """Return the admin sockets of this process, with what each reports; the one that stands for all is the last."""

    def watch(self, drain: Callable[[str], None]) -> None:
        """Call `drain` when all of the group are to drain; on the running loop."""

    def serves(self) -> None:
        """Note that this process has started."""

    def refuse(self) -> bool:
        """Note that it cannot start; tell whether it is the one to say why."""

    def leads(self) -> bool:
        """Tell whether it is the one to find out that all are orphaned."""

    def orphaned(self) -> bool:
        """Tell whether the process that started it, or its group, is gone."""

    def leave(self, drain: Callable[[str], None], reason: str) -> None:
        """Let all of the port drain: this process with `drain`, or its group."""


class Alone:
    """The membership of a process that has its port for itself. `parent` is the pid of the process that started it."""

    forked = False
    status: int | None = None

    def __init__(self, parent: int) -> None:
        self._parent = parent

    def bind(self, address: str, port: int, backlog: int, at_exit: contextlib.ExitStack) -> list[socket.socket]:
        return bind(address, port, backlog, at_exit)

    def shares_port(self) -> bool:
        return False

    def statuses(self, path: Path, status: Status) -> Sequence[tuple[Path, Status]]:
        return [(path, status)]

    def watch(self, drain: Callable[[str], None]) -> None:
        """Nobody else tells it to drain."""

    def serves(self) -> None:
        """Nobody else has to know."""

    def refuse(self) -> bool:
        return True

    def leads(self) -> bool:
        return True

    def orphaned(self) -> bool:
        return os.getppid() != self._parent

    def leave(self, drain: Callable[[str], None], reason: str) -> None:
        drain(reason)
