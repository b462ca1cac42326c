"""What this process starts has nothing that is the process's own, and ends with it.

A forked child has a copy of each descriptor. The copy of a listening socket outlives the process, and the kernel goes
on to give it connections: nobody accepts them. Measured, with a pool of processes that has worked once and a process
that was killed: half of all new connections to its port hang, as long as the pool lives.

**A child has nothing of ours.** In a child that Python forks (`os.fork`, `multiprocessing`, `ProcessPoolExecutor`), before
anything else runs there, our listening sockets, the connections that they accepted, the admin socket and what the event
loop is made of become ``/dev/null``. That is better than to close them: the child has the objects still, and may close
the number of a file that it has opened since. The child's epoll is another one, an empty one: whoever changes
the one that it shares with its parent changes the parent's. A program that is executed has none of them anyway: each is closed
by that (``O_CLOEXEC``, PEP 446). A child that C code forks has them all until it is ended; so at the end of a drain the
sockets are shut down before they are closed, which takes effect in every copy (see `eyewall.acceptor`, `eyewall.stream`).

**It ends with this process**, also with one that is killed or that the watchdog ends. Each forked child waits for the
end of a pipe whose other end is here, and the kernel sends it SIGKILL then (``F_SETSIG``, fcntl(2)). (``PR_SET_PDEATHSIG``
would not do: it means the *thread* that forked, and a daemon's parent that leaves at once.) What else there is, as a program
that was executed, is ended by `end` when this process ends by itself, and by `end_left_over` in its successor when not.

What `survive` is told of is left alone.
"""

import contextlib
import ctypes
import fcntl
import gc
import glob
import logging
import mmap
import os
import re
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger(__name__)

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
GONE_SECONDS = 1.0  # that the kernel may take to end what was killed
POLL_SECONDS = 0.02
COMMAND_LENGTH = 100  # of a command in the log
FILES = "/proc/self/fd"
RING = "anon_inode:[io_uring]"
EPOLL = "anon_inode:[eventpoll]"
MAP_FIXED = 0x10  # mmap(2)
MAP_OURS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_FIXED
# What supervisord gives each process of its own, and every process inherits that this one starts.
LABELS = ("SUPERVISOR_GROUP_NAME", "SUPERVISOR_PROCESS_NAME")


@dataclass
class _Own:
    """What is this process's own. There is one: what is to be done in a child cannot be taken back (os.register_at_fork)."""

    pid: int = 0  # of the process
    active: bool = False
    # The pipe whose end tells children of ours, and what /proc calls it
    reader: int = -1
    writer: int = -1
    pipe: str = ""
    # The names of what we listen on
    ports: set[int] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    loops: list[Any] = field(default_factory=list)
    # What the loops have opened: number, and what /proc calls it
    files: dict[int, str] = field(default_factory=dict)
    survivors: list[re.Pattern[str]] = field(default_factory=list)
    # What else is to be done in a child
    first: list[Callable[[], None]] = field(default_factory=list)
    # The signals that a thread had blocked before it forked
    mask: threading.local = field(default_factory=threading.local)


_own = _Own()

_libc = ctypes.CDLL(None)
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.mmap.restype = ctypes.c_void_p


# What is our own


def begin() -> None:
    """Let what this process starts from now on have nothing of it, and end with it."""
    if _own.pid != os.getpid():
        for number in (_own.reader, _own.writer):  # a group's parent had them
            if _own.pipe and _named(number) == _own.pipe:
                os.close(number)
        _own.reader, _own.writer = os.pipe()
        _own.pipe = _named(_own.reader)
        _own.pid = os.getpid()
    _own.active = True


def suspend() -> None:
    """Let what is forked from now on be as this process, until it says `begin`: the processes of a group serve as well."""
    _own.active = False


def survive(patterns: Iterable[re.Pattern[str]]) -> None:
    """Leave alone whatever has one of `patterns` in its command line."""
    _own.survivors.extend(patterns)


def hide(listener: socket.socket) -> None:
    """Count a listening socket, and what it accepts, as our own."""
    name = listener.getsockname()
    if listener.family == socket.AF_UNIX:
        _own.paths.add(name)
    else:
        _own.ports.add(name[1])


def hide_loop(loop: Any) -> None:
    """Count a running event loop as our own, as far as one that a program made can be known."""
    hide_file(loop._get_backend_id() if hasattr(loop, "_get_backend_id") else loop._selector.fileno())
    _own.loops.append(loop)


def hide_file(number: int) -> None:
    """Count an open file as our own."""
    _own.files[number] = _named(number)


def hidden(make: Callable[[], Any]) -> Callable[[], Any]:
    """Return `make`, which makes an event loop, with all that it opens for it counted as our own."""

    def make_and_hide() -> Any:
        before = _open_files()
        loop = make()
        _own.files.update((number, what) for number, what in _open_files().items() if before.get(number) != what)
        return loop

    return make_and_hide


def in_child(first: Callable[[], None]) -> None:
    """Let each child call `first` before anything else."""
    _own.first.append(first)


# In a child


def _hold_signals() -> None:
    """Let SIGTERM and SIGINT wait: what a child is sent before Python is ready in it would be forgotten."""
    _own.mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))


def _let_signals_come() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _own.mask.before)


def _begin_child() -> None:
    if _own.active:
        _become_child()
    _let_signals_come()


def _become_child() -> None:
    """Let go of what is our parent's, and end with it."""
    for first in _own.first:
        first()
    # A signal that comes here would be told to the parent's loop.
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
    with contextlib.suppress(OSError):
        _let_go()
    with contextlib.suppress(OSError):
        _end_with_parent()


def _let_go() -> None:
    now = _open_files()
    private = {number for number, what in _own.files.items() if now.get(number) == what}
    private |= {one.fileno() for loop in _own.loops for one in _sockets_of(loop)} - {-1}
    private |= {number for number, what in now.items() if what.startswith("socket:") and _is_ours(number)}
    if any(now[number] == RING for number in private):
        _copy_rings()
    null = os.open(os.devnull, os.O_RDWR)
    for number in private:
        if now[number] == EPOLL:
            with select.epoll() as empty:
                os.dup2(empty.fileno(), number, inheritable=False)
        else:
            os.dup2(null, number, inheritable=False)
    os.close(null)


def _end_with_parent() -> None:
    if _named(_own.reader) != _own.pipe:  # a daemon closes whatever it finds
        return
    # What is set below belongs to an open file, not to its number. The inherited one is our parent's.
    ours = os.open(f"{FILES}/{_own.reader}", os.O_RDONLY | os.O_NONBLOCK)
    fcntl.fcntl(ours, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(ours, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(ours, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)
    os.dup2(ours, _own.reader, inheritable=False)
    os.close(ours)
    if _own.writer >= 0:
        # Not earlier: if our parent is gone by now, this is what ends us.
        os.close(_own.writer)
        _own.writer = -1
    poll = select.poll()
    poll.register(_own.reader, 0)
    if poll.poll(0):
        # the child of a child, and it was gone before we asked to be told
        os.kill(os.getpid(), signal.SIGKILL)


os.register_at_fork(before=_hold_signals, after_in_parent=_let_signals_come, after_in_child=_begin_child)


def _open_files() -> dict[int, str]:
    """What this process has open, as /proc names it, by number."""
    names = {int(number): _named(int(number)) for number in os.listdir(FILES)}  # noqa: PTH208 - there may be 50,000
    return {number: name for number, name in names.items() if name}


def _named(number: int) -> str:
    """What /proc calls an open file; empty if it is not open."""
    try:
        return os.readlink(f"{FILES}/{number}")  # noqa: PTH115 - the same
    except OSError:
        return ""


def _sockets_of(loop: Any) -> Iterator[socket.socket]:
    """The two sockets by which a loop is told of signals: uvloop opens them when it runs, and shows them to nobody else."""
    for one in (*gc.get_referents(loop), *getattr(loop, "__dict__", {}).values()):
        if isinstance(one, socket.socket):
            yield one


def _is_ours(number: int) -> bool:
    """Tell whether a socket is one that we listen on, or was accepted there: both have the same name."""
    try:
        one = socket.socket(fileno=number)
    except OSError:
        return False
    try:
        name = one.getsockname()
    except OSError:
        return False
    finally:
        one.detach()
    if one.family == socket.AF_UNIX:
        return name in _own.paths
    return one.family in (socket.AF_INET, socket.AF_INET6) and one.type == socket.SOCK_STREAM and name[1] in _own.ports


def _copy_rings() -> None:
    """Make a copy of the memory by which libuv speaks to the kernel (io_uring): what we wrote there, our parent would send."""
    for line in Path("/proc/self/maps").read_text(encoding="utf-8").splitlines():
        if line.endswith(RING):
            first, last = (int(address, 16) for address in line.split()[0].split("-"))
            content = ctypes.string_at(first, last - first)
            _libc.mmap(first, last - first, mmap.PROT_READ | mmap.PROT_WRITE, MAP_OURS, -1, 0)
            ctypes.memmove(first, content, last - first)


# At the end


class _Process(NamedTuple):
    pid: int
    parent: int
    group: int
    session: int
    ended: bool


def end(grace: float = GRACE) -> None:
    """End what this process started: with SIGTERM, and after `grace` seconds with SIGKILL. In another process, nothing."""
    if os.getpid() != _own.pid:
        return
    told: set[int] = set()
    begun = time.monotonic()
    while left := _descendants(_own.pid):
        passed = time.monotonic() - begun
        for pid in left:
            if pid not in told:
                log.info("told to end, because this process ends: %s", describe(pid))
                told.add(pid)
                _send(pid, signal.SIGTERM)
            if passed >= grace:
                _send(pid, signal.SIGKILL)
        if passed >= grace + GONE_SECONDS:
            log.warning("still here: %s", ", ".join(map(describe, left)))
            return
        time.sleep(POLL_SECONDS)


def end_left_over(admin: Path | None) -> None:
    """End what a process left that supervisord started before this one by the same name, and that was killed.

    What it left has the environment that supervisord gave it, and so the two names. An orphan has them as well (see
    `eyewall.succession`): it has the socket at `admin`, or drains already, and then SIGTERM says nothing new to it.
    """
    labels = {f"{name}={os.environ[name]}".encode() for name in LABELS if name in os.environ}
    if len(labels) < len(LABELS) or admin is None:
        return
    found = _processes()
    labelled = {pid for pid in found if labels <= _environment(pid)}
    try:
        spared = {os.getpid(), *_answering(admin)}
    except BlockingIOError:
        log.warning("%s is somebody's who does not answer; what was left there is left alone", admin)
        return
    above = list(spared)
    while above:  # up to a group's parent, or gunicorn's master
        if (pid := above.pop()) in labelled:
            spared.add(pid)
            above.append(found[pid].parent)
    for pid in tuple(spared):
        spared.update(_descendants(pid, survivors=True))
    for one in map(found.__getitem__, labelled - spared):
        if one.ended or _survives(one.pid):
            continue
        # supervisord makes each of its processes the first of a group, and not of a session (os.setpgrp)
        drains = one.pid == one.group != one.session
        log.warning("left by a process that was killed, and ended: %s", describe(one.pid))
        _send(one.pid, signal.SIGTERM if drains else signal.SIGKILL)


def describe(pid: int) -> str:
    """A process, for the log."""
    command = _command(pid)
    printable = "".join(letter if letter.isprintable() else "?" for letter in command[:COMMAND_LENGTH])
    return f"{pid} ({printable})"


def _send(pid: int, number: signal.Signals) -> None:
    # A child of ours has its number until we wait for it. Of another process's there is a moment in which it is another's.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _descendants(pid: int, *, survivors: bool = False) -> list[int]:
    """What lives of all that a process has started and what that has; those that survive only if `survivors`."""
    children: dict[int, list[_Process]] = {}
    for one in _processes().values():
        children.setdefault(one.parent, []).append(one)
    found, parents = [], [pid]
    while parents:
        for one in children.get(parents.pop(), ()):
            if survivors or not _survives(one.pid):
                parents.append(one.pid)
                if not one.ended:
                    found.append(one.pid)
    return found


def _processes() -> dict[int, _Process]:
    found = (read_process(int(path.name)) for path in Path("/proc").glob("[0-9]*"))
    return {one.pid: one for one in found if one is not None}


def read_process(pid: int) -> _Process | None:
    """Read what the kernel says of a process; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # proc(5): after the command in parentheses the state, then the numbers
    state, *numbers = text.rpartition(")")[2].split()
    parent, group, session = map(int, numbers[:3])
    return _Process(pid, parent, group, session, state in ("Z", "X"))


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _survives(pid: int) -> bool:
    if not _own.survivors or (command := _command(pid)) == _command(os.getpid()):
        # what is only forked has our own command line, in which the patterns stand
        return False
    return any(pattern.search(command) for pattern in _own.survivors)


def _environment(pid: int) -> set[bytes]:
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:  # another account's, as a rule
        return set()


def _answering(admin: Path) -> Iterator[int]:
    """The processes that have the admin socket at a path, or beside it, as a group's have. BlockingIOError: it is stuck."""
    for path in glob.glob(f"{glob.escape(str(admin))}*"):  # noqa: PTH207 - Path has no way to escape
        with socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            try:
                connection.connect(path)
            except BlockingIOError:
                raise
            except OSError:  # nobody's, or another account's
                continue
            yield struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
