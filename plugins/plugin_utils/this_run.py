"""Who it is that deploys, and whether another of its runs still lives: for the actions that begin or end a change of a host."""

import getpass
import multiprocessing
import os
import socket
import uuid
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase


def started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc_pid_stat(5), field 22); None for one that is dead."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = text.rpartition(")")[2].split()
    return None if state in "ZX" else int(fields[18])


def controller() -> uuid.UUID:
    """Name this machine since its boot, or this container on it: where a process id means the same process.

    A hash, because machine-id(5) is not to be shown to others.
    """
    machine = Path("/etc/machine-id")
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    pids = Path("/proc/self/ns/pid").readlink()
    return uuid.uuid5(uuid.UUID(boot), f"{machine.read_text().strip() if machine.exists() else ''} {pids}")


def user() -> str:
    """Who typed the command."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except KeyError:  # an account without a name, as CI systems have
        return str(os.getuid())


def this_run() -> dict[str, Any]:
    """What the module writes into the lock, the same in every task of one ansible-playbook."""
    # Tasks run in forked workers. Their parent as it was at the fork: os.getppid() is 1 once that was killed.
    parent = multiprocessing.parent_process()
    pid = parent.pid if parent else None
    assert pid is not None, "a task runs in a worker"  # noqa: S101 -- for mypy
    place, ticks = controller(), started(pid)
    return {
        "id": str(uuid.uuid5(place, f"{pid} {ticks}")),
        "owner": f"{user()}@{socket.gethostname()}",
        "controller": str(place),
        "pid": pid,
        "pid_started": ticks,
    }


class LockingAction(ActionBase):  # type: ignore[misc]
    """An action whose module takes a host's lock or gives it up, in the name of this run."""

    def arguments(self) -> dict[str, Any]:
        """What the module is given."""
        return dict(self._task.args)

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the module of the same name; again, if the run that has the lock was one of this controller, and is dead."""
        super().run(tmp, task_vars)
        arguments, run = self.arguments(), this_run()
        result: dict[str, Any] = self._execute_module(module_args={**arguments, "run": run}, task_vars=task_vars)
        lock = result.get("lock")  # another run's, with a refusal
        if lock and lock["controller"] == run["controller"] and started(lock["pid"]) != lock["pid_started"]:
            known = {**run, "dead": lock["id"]}
            result = self._execute_module(module_args={**arguments, "run": known}, task_vars=task_vars)
        return result
