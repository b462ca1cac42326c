"""Run what a release brings: as the application's account and nothing more, in time, and with an end for all that it starts."""

from __future__ import annotations

import ctypes
import os
import pwd
import select
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.module_utils.text import end_of, shown

# <linux/prctl.h>, which Python has no names for
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 36, 38


def prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def account(user: str) -> dict[str, Any]:
    """What makes subprocess.Popen run as an account: its number, its group, and the groups that it is a member of."""
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise OSError(f"there is no account '{user}'") from None
    if entry.pw_uid == os.getuid():
        return {}
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": os.getgrouplist(user, entry.pw_gid)}


def environment_of(user: str, home: str) -> dict[str, str]:
    """The environment of an account, as supervisord gives it to the application's processes."""
    return {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": home, "USER": user, "LANG": "C.UTF-8"}


def children() -> set[int]:
    """The processes below this one."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        try:
            # proc_pid_stat(5): after the name in brackets, which may hold anything, the state and the parent
            if int((place / "stat").read_text(errors="replace").rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(place.name))
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
    return found


def is_of(pid: int, uid: int) -> bool:
    """Whether a process is an account's."""
    # and not by who owns its directory: that is root where a process says PR_SET_DUMPABLE
    try:
        return f"\nUid:\t{uid}\t" in Path("/proc", str(pid), "status").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False  # it has ended since


@contextmanager
def nothing_outlives(uid: int | None = None) -> Iterator[None]:
    """End every process that was started inside, wherever it hid: one that has lost its parent becomes a child of ours.

    Or those of an account alone, where other threads start processes too.
    """
    before = children()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        while started := {pid for pid in children() - before if uid is None or is_of(pid, uid)}:
            for pid in started:
                os.kill(pid, signal.SIGKILL)
            for pid in started:
                os.waitpid(pid, 0)
        prctl(PR_SET_CHILD_SUBREAPER, 0)


def wait(process: subprocess.Popen[bytes], seconds: float) -> int:
    """The exit status of a process. Raises subprocess.TimeoutExpired for one that has not ended in time.

    Popen.wait with a limit looks for it at intervals of up to 0.05 s (CPython's subprocess); a pidfd tells at once.
    """
    try:
        handle = os.pidfd_open(process.pid)
    except (AttributeError, OSError):  # a controller that is not Linux, or a kernel before 5.3
        return process.wait(seconds)
    try:
        poll = select.poll()
        poll.register(handle, select.POLLIN)
        poll.poll(1000 * seconds)
    finally:
        os.close(handle)
    return process.wait(0)


def run_as(
    user: str, command: list[str], *, seconds: int, variable: str, cwd: str, env: dict[str, str]
) -> tuple[str, bytes]:
    """Run a command as an account; how it failed ("" if it did not), and the end of what it printed.

    The `variable` says how many seconds it has. Raises OSError if the command cannot be started.
    """
    # a file, not a pipe, which somebody would have to read meanwhile
    with tempfile.TemporaryFile() as output:
        with nothing_outlives():
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                umask=0o022,  # as supervisord has it, whatever the connection has
                start_new_session=True,  # without a terminal that it could type into
                # no setuid program makes it more than the account; a module has one thread
                preexec_fn=lambda: prctl(PR_SET_NO_NEW_PRIVS, 1),  # noqa: PLW1509
                **account(user),
            )
            try:
                status = wait(process, seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                failure = f"was killed after {seconds} s ({variable})"
            else:
                ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
                failure = f"ended {ended}" if status else ""
        return failure, end_of(output)


def last_lines(said: bytes, secrets: Iterable[str] = ()) -> str:
    """What a command printed at the end, in a sentence."""
    lines = shown(said, secrets)
    return f"The last lines that it printed:\n{lines}" if lines else "It printed nothing."
