"""Waits for what nothing announces."""

import asyncio
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 30.0  # seconds until a test gives up; many times what anything takes


def until(
    condition: Callable[[], Any],
    what: str = "",
    seconds: float = PATIENCE,
    *,
    despite: tuple[type[Exception], ...] = (),
) -> Any:
    """Wait until a condition is true, and return what made it so; an error of `despite` is not yet.

    What takes long to ask is asked half of the time at most, for whatever is waited for needs the machine, too.
    """
    deadline = time.monotonic() + seconds
    while True:
        began = time.monotonic()
        try:
            last = condition()
        except despite as error:
            last = error
        else:
            if last:
                return last
        now = time.monotonic()
        assert now < deadline, f"waited {seconds} s for {what or condition}; it was {last!r}"
        time.sleep(max(0.02, now - began))


async def until_async(condition: Callable[[], Any], seconds: float = PATIENCE) -> None:
    """Wait until a condition is true, while the loop goes on."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- nothing signals it
            await asyncio.sleep(0.01)
