"""What the kernel says of a process (proc(5))."""

import os
from pathlib import Path


def _stat(pid: int) -> list[str]:
    """Return the fields of a process from its state on: its name, which may have blanks, comes before."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def is_alive(pid: int) -> bool:
    """Whether a process runs. A zombie, which nobody may reap in a container, has ended as well."""
    try:
        return _stat(pid)[0] != "Z"
    except FileNotFoundError:
        return False


def parent(pid: int) -> int:
    return int(_stat(pid)[1])


def started(pid: int) -> int | None:
    """When a process began, in clock ticks since the machine did (starttime); None where it has ended."""
    try:
        return int(_stat(pid)[19])
    except OSError:
        return None


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (utime, stime)."""
    return sum(map(int, _stat(pid)[11:13])) / os.sysconf("SC_CLK_TCK")
