"""Limits of the system that must fit before the first request."""

import resource
from pathlib import Path

from eyewall.errors import Refusal

SOMAXCONN = Path("/proc/sys/net/core/somaxconn")


def raise_open_files(wanted: int) -> None:
    """Raise the soft limit of open files to `wanted`; 0 leaves it alone.

    At the limit new connections have to wait (see `eyewall.acceptor`). So a process that cannot have what it was
    promised does not start.

    Raises `Refusal` if the hard limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if not wanted or soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise Refusal(
            f"--open-files {wanted}: the hard limit of open files is {hard}; raise it with LimitNOFILE= "
            "in the systemd unit that starts this process (supervisord's), or nofile in limits.conf"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def capped_backlog(wanted: int) -> int:
    """Return how many connections the kernel will queue of `wanted`: listen(2), net.core.somaxconn."""
    try:
        return min(wanted, int(SOMAXCONN.read_text()))
    except OSError:
        return wanted
