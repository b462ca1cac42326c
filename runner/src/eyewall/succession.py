"""What becomes of a process whose supervisord was killed."""

import asyncio
from collections.abc import Callable

from eyewall.admin import Admin
from eyewall.children import read_process

INTERVAL = 1.0  # seconds


async def watch_for_successor(admin: Admin, orphaned: Callable[[], bool], drain: Callable[[str], None]) -> None:
    """Call `drain` once this process is `orphaned` *and* another one has taken its admin socket over.

    When supervisord is killed with SIGKILL, systemd starts a new one (``KillMode=process`` leaves us alone),
    which knows nothing of us and starts a process of its own on our port. To exit at the parent's death
    would be an outage until that one is ready; to stay forever would leave old code answering half of the
    requests, since ``SO_REUSEPORT`` lets both listen. So an orphan serves on until its successor is
    there, which takes the admin path after it has loaded its application, and then leaves as if told to.

    One condition is not enough: a parent may die for good with nobody to follow, and at every handover the
    new process has the admin path while supervisord decides when the old one stops.
    """
    while not orphaned() or not admin.superseded():  # noqa: ASYNC110 - nothing signals it
        await asyncio.sleep(INTERVAL)
    drain("orphaned, and a successor is here")


def reparented(pid: int, parent: int) -> bool:
    """Tell whether process `pid` has lost its `parent`."""
    process = read_process(pid)
    return process is not None and process.parent != parent
