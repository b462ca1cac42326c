"""Time that nobody sets: how long a lock holds, and which generation came last, are no matter of the host's clock.

A clock that is wrong is set, by hours and years in either direction. CLOCK_BOOTTIME (clock_gettime(2)) is not: it counts from the
host's boot, and says nothing about the time before it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot() -> str:
    """A name of the host's boot (random(4))."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def uptime() -> float:
    """Seconds since the host's boot, those in which it was suspended included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def marks(lifetime: float) -> dict[str, Any]:
    """What a lock says of its time beside the dates for people: the boot, the seconds since it now, and those at its end."""
    return {"boot": boot(), "up": round(uptime(), 3), "ends": round(uptime() + lifetime, 3)}


def is_of_this_boot(lock: Mapping[str, Any]) -> bool:
    return lock.get("boot") == boot() and all(isinstance(lock.get(mark), int | float) for mark in ("up", "ends"))


def age(lock: Mapping[str, Any]) -> float:
    """Seconds since a lock was taken, never less than 0. From before this boot its date says it, as well as that can."""
    if is_of_this_boot(lock):
        return max(uptime() - float(lock["up"]), 0.0)
    return max(time.time() - float(lock["started"]), 0.0)


def left(lock: Mapping[str, Any]) -> float:
    """Seconds that a lock still holds, 0 or less where its time is up.

    From before this boot, its dates say it. One that says that it was taken later than now is no longer believed: else it would
    hold for as long as the clock was wrong.
    """
    if is_of_this_boot(lock):
        return float(lock["ends"]) - uptime()
    now = time.time()
    return float(lock["expires"]) - now if lock["started"] <= now else 0.0
