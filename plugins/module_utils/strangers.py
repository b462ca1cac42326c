"""Strangers: processes of the application's account that nobody who should has started, and who else has its ports.

Whatever runs as the account is a process that supervisord knows, or descends from one. What does not is of one of three kinds,
and the kernel says of which:

- **left** by a release: it is in the control group of supervisord's service (cgroups(7)), which nobody without root leaves. Such
  are a daemon that an application started, and what a process left that was killed. It ends with its release.
- **detached** from a process that supervisord knows: left, too, but it has that one's name in its environment, and is younger.
  Its parent is gone, as with `sh -c "command &"`. A process can write there what it likes, so this counts for nothing if it
  listens on a port of the application, and it is listed.
- **foreign**: anything else. Nobody of us started it, as cron, a login or another service.

A port's listeners are compared as well: each must be held by a process that descends from one that supervisord knows. Inside of
such a process nobody can look from here: what has taken over one of the current release is the current release.
"""

from __future__ import annotations

import os
import pwd
import re
import select
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure
from ansible_collections.eyewall.tornado.plugins.module_utils.text import shown

PROC = Path("/proc")
LISTEN = "0A"  # state of a listening socket in /proc/net/tcp (include/net/tcp_states.h)
PAUSE = (
    1.0  # seconds after which a stranger must still be there: what is just forked may have lost its parent for a moment
)
GONE_SECONDS = 5.0  # that the kernel may take to end what was killed
COMMAND = 120  # characters of a command that are shown
UNKNOWN = "unknown"


class Process(NamedTuple):
    """What every account may know of a process."""

    pid: int
    parent: int
    started: int  # in clock ticks since the boot
    accounts: frozenset[int]  # real, effective, saved
    group: str  # control groups
    contained: bool  # whether it is in a PID namespace below ours


class Listener(NamedTuple):
    port: int
    account: int
    inode: str


class Stranger(NamedTuple):
    """A process, or a listener whose process cannot be seen (`pid` is None then)."""

    pid: int | None
    started: int
    account: str
    command: str
    ports: tuple[int, ...]
    kind: str  # left, detached, foreign
    of: str  # the process that it says it is detached from

    def result(self) -> dict[str, Any]:
        return {**self._asdict(), "ports": list(self.ports), "since": since(self.started)}

    def __str__(self) -> str:
        facts = [repr(self.command), *([f"since {since(self.started)}"] if self.pid else [])]
        facts += [f"listens on port {port}" for port in self.ports]
        return f"{self.pid or 'a process'} of {self.account} ({', '.join(facts)})"


def since(started: int) -> str:
    """When a process was started, in UTC."""
    boot = next(int(line.split()[1]) for line in (PROC / "stat").read_text().splitlines() if line.startswith("btime "))
    moment = time.gmtime(boot + started / os.sysconf("SC_CLK_TCK"))
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", moment)


def process(pid: int) -> Process | None:
    """A process; None for one that has ended, or that this host shows to nobody (hidepid)."""
    place = PROC / str(pid)
    try:
        # proc_pid_stat(5): after the name in parentheses, which may hold anything
        fields = (place / "stat").read_text(errors="replace").rpartition(")")[2].split()
        status = dict(line.partition(":")[::2] for line in (place / "status").read_text(errors="replace").splitlines())
        group = (place / "cgroup").read_text()
    except OSError:
        return None
    if fields[0] in ("Z", "X"):
        return None
    accounts = frozenset(map(int, status["Uid"].split()[:3]))
    return Process(pid, int(fields[1]), int(fields[19]), accounts, group, len(status.get("NSpid", "0").split()) > 1)


def processes() -> dict[int, Process]:
    found = (process(int(path.name)) for path in PROC.glob("[0-9]*"))
    return {one.pid: one for one in found if one}


def listeners() -> list[Listener]:
    """Every listening TCP socket of this host."""
    found = []
    for table in (PROC / "net/tcp", PROC / "net/tcp6"):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            fields = line.split()
            if fields[3] == LISTEN:
                found.append(Listener(int(fields[1].rsplit(":", 1)[1], 16), int(fields[7]), fields[9]))
    return found


def name_of(account: int) -> str:
    try:
        return pwd.getpwuid(account).pw_name
    except KeyError:
        return str(account)


def command_of(pid: int) -> str:
    """The command of a process, which chooses what it says here."""
    try:
        said = (PROC / str(pid) / "cmdline").read_bytes() or (PROC / str(pid) / "comm").read_bytes()
    except OSError:
        return UNKNOWN
    # In the command line of the runner, and so of what it forks, the patterns of tornado_app_survivors stand themselves.
    said = re.sub(rb"\0--survivor\0[^\0]*", b"", said)
    return said.replace(b"\0", b" ").decode(errors="backslashreplace").strip()


def as_line(command: str) -> str:
    return shown(" ".join(command.split()))[:COMMAND]


@contextmanager
def acting_as(account: int) -> Iterator[None]:
    """Look at the processes of an account as itself: root may not where it has no CAP_SYS_PTRACE, as in a container.

    Only what is effective changes, so the account can send us nothing meanwhile (kill(2), ptrace(2)).
    """
    if os.geteuid() != 0 or account == 0:
        yield
        return
    try:
        group = pwd.getpwuid(account).pw_gid
    except KeyError:
        yield
        return
    before = os.getegid()
    os.setegid(group)
    try:
        os.seteuid(account)
        try:
            yield
        finally:
            os.seteuid(0)
    finally:
        os.setegid(before)


def sockets_of(one: Process) -> set[str] | None:
    """The inodes of the sockets that a process has; None where that cannot be seen."""
    for account in (os.geteuid(), *one.accounts):
        with acting_as(account), suppress(OSError):
            found = set()
            for number in (PROC / str(one.pid) / "fd").iterdir():
                with suppress(FileNotFoundError):
                    found.add(str(number.readlink()))
            return {name[8:-1] for name in found if name.startswith("socket:")}
    return None


def environment_of(one: Process) -> dict[str, str]:
    """The environment that a process was started with, unless it has changed that since; empty where that cannot be seen."""
    for account in (os.geteuid(), *one.accounts):
        with acting_as(account), suppress(OSError):
            said = (PROC / str(one.pid) / "environ").read_bytes().decode(errors="replace")
            return dict(pair.partition("=")[::2] for pair in said.split("\0"))
    return {}


def holder(listener: Listener) -> str:
    """Who has a listening socket: its process where it can be seen, else its account."""
    for pid, one in processes().items():
        if listener.inode in (sockets_of(one) or ()):
            return str(
                Stranger(pid, one.started, name_of(min(one.accounts)), as_line(command_of(pid)), (), "foreign", "")
            )
    return f"a process of {name_of(listener.account)}"


class Watch:
    """Looks for strangers of one account, on a host where supervisord is `supervisord`.

    `known` gives the processes that supervisord knows, their names by PID. Whatever has one of `survivors` in its command may
    be there, unless it listens on one of `ports`.
    """

    def __init__(
        self,
        user: str,
        supervisord: int,
        known: Callable[[], dict[int, str]],
        ports: Iterable[int],
        survivors: Iterable[str],
    ) -> None:
        self.account = pwd.getpwnam(user).pw_uid
        self.supervisord = supervisord
        self.known = known
        self.ports = set(ports)
        self.survivors = [re.compile(pattern) for pattern in survivors]

    def strangers(self) -> list[Stranger]:
        """Everyone who is there twice, a moment apart."""
        first = self.look()
        if not first:
            return []
        time.sleep(PAUSE)
        again = {(one.pid, one.started, one.ports if one.pid is None else ()) for one in first}
        return [one for one in self.look() if (one.pid, one.started, one.ports if one.pid is None else ()) in again]

    def look(self) -> list[Stranger]:
        # in this order: what supervisord starts meanwhile is known, and what ends meanwhile is no stranger
        found = processes()
        known = self.known()
        found |= {pid: one for pid in known if (one := process(pid))}
        ours = {pid for pid in found if self.descends(pid, found, known)}
        ports, nobodys = self.foreign_ports(found, ours)
        service = found[self.supervisord].group if self.supervisord in found else ""
        strangers = []
        for pid, one in sorted(found.items()):
            of_account = self.account in one.accounts and pid not in ours
            left = one.group == service and ".service" in service
            # a container of another kind may have an account of the same number
            if not ports.get(pid) and (not of_account or (one.contained and not left)):
                continue
            command = command_of(pid)
            if not ports.get(pid) and any(pattern.search(command) for pattern in self.survivors):
                continue
            of = self.detached_from(one, found, known) if left and not ports.get(pid) else ""
            kind = "foreign" if not (left and of_account) else "detached" if of else "left"
            account = name_of(self.account if self.account in one.accounts else min(one.accounts))
            strangers.append(Stranger(pid, one.started, account, as_line(command), ports.get(pid, ()), kind, of))
        return strangers + [
            Stranger(None, 0, name_of(listener.account), UNKNOWN, (listener.port,), "foreign", "")
            for listener in nobodys
        ]

    def descends(self, pid: int, found: dict[int, Process], known: dict[int, str]) -> bool:
        seen: set[int] = set()
        while pid in found and pid not in seen:
            if pid in known:
                return True
            seen.add(pid)
            pid = found[pid].parent
        return False

    def foreign_ports(
        self, found: dict[int, Process], ours: set[int]
    ) -> tuple[dict[int, tuple[int, ...]], list[Listener]]:
        """Which ports of the application others than `ours` listen on, by PID; and listeners whose processes cannot be seen."""
        open_ports = {one.inode: one for one in listeners() if one.port in self.ports}
        for pid in ours:
            held = sockets_of(found[pid]) if open_ports else set()
            if held is None:
                # it lets nobody look: of its account's listeners any may be its
                held = {inode for inode, one in open_ports.items() if one.account in found[pid].accounts}
            for inode in held & open_ports.keys():
                del open_ports[inode]
        ports: dict[int, tuple[int, ...]] = {}
        if open_ports:
            for pid in found.keys() - ours:
                held = (sockets_of(found[pid]) or set()) & open_ports.keys()
                if held:
                    ports[pid] = tuple(sorted({open_ports[inode].port for inode in held}))
        seen = {port for taken in ports.values() for port in taken}
        return ports, [one for one in open_ports.values() if one.port not in seen]

    def detached_from(self, one: Process, found: dict[int, Process], known: dict[int, str]) -> str:
        said = environment_of(one)
        name = f"{said.get('SUPERVISOR_GROUP_NAME')}:{said.get('SUPERVISOR_PROCESS_NAME')}"
        for pid, known_name in known.items():
            if known_name == name and pid in found and found[pid].started <= one.started:
                return name
        return ""


def end(strangers: Iterable[Stranger], seconds: float) -> list[Stranger]:
    """End processes: with SIGTERM, and after so many seconds with SIGKILL. Raises Failure for one that does not end.

    Returns who was there still. An orphan of a supervisord that was killed is drained so.
    """
    ended = []
    with ExitStack() as at_exit:
        poll = select.poll()
        waiting: dict[int, Stranger] = {}
        for one in strangers:
            if one.pid is None:
                continue
            with suppress(ProcessLookupError):
                handle = os.pidfd_open(one.pid)
                at_exit.callback(os.close, handle)
                now = process(one.pid)
                if now is None or now.started != one.started:  # another one by now
                    continue
                poll.register(handle, select.POLLIN)
                waiting[handle] = one
                ended.append(one)
        for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, GONE_SECONDS)):
            deadline = time.monotonic() + patience
            for handle in waiting:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            while waiting and (rest := deadline - time.monotonic()) > 0:
                for handle, _ in poll.poll(rest * 1000):
                    poll.unregister(handle)
                    del waiting[handle]
    if waiting:
        raise Failure(f"{'; '.join(map(str, waiting.values()))} cannot be ended: the kernel keeps it.")
    return ended


def refusal(user: str, strangers: Iterable[Stranger]) -> str:
    """What is wrong with strangers, and what to do, in a sentence."""
    return (
        f"processes of {user}: got {'; '.join(map(str, strangers))}; expected only what supervisord started, and what that did. "
        "End it, or name its command in tornado_app_survivors."
    )
