"""Loops that do not move, or that are busy, in processes of their own, each with a watchdog; see test_watchdog.py.

    python eyewall_blocked.py SECONDS TIMES LOOP WAY…

Forks TIMES processes for each way, and writes a line of JSON for each: how it was blocked, its exit status, its stderr.
"""

import asyncio
import json
import os
import re
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import uvloop
from eyewall import watchdog as product
from eyewall.watchdog import Watchdog, dump_stacks_on_demand

AT_ONCE = 8
FRAMES = 900
SHORT = 0.02  # seconds


def there(rest: int, then: Callable[[], object]) -> object:
    return back(rest - 1, then) if rest else then()


def back(rest: int, then: Callable[[], object]) -> object:
    return there(rest - 1, then) if rest else then()


def depth(rest: int) -> int:
    return depth(rest - 1) + 1 if rest else 0


def items(rest: int) -> Iterator[int]:
    if rest:
        yield from items(rest - 1)
    yield rest


def recurse() -> None:
    while True:
        depth(200)


def generate() -> None:
    while True:
        deque(items(50), 0)


def sleep() -> None:
    time.sleep(1000)


def receive() -> None:
    os.read(os.pipe()[0], 1)


def deep() -> None:
    there(FRAMES, sleep)


def deep_and_busy() -> None:
    there(FRAMES - 300, recurse)


def endless() -> None:
    sys.setrecursionlimit(10**6)
    there(50_000, recurse)


def threads() -> None:
    sys.setswitchinterval(1e-5)  # a busy host's threads have their turn at any moment; these have it as often
    for _ in range(8):
        threading.Thread(target=recurse, daemon=True).start()
    generate()


HOLD_THE_GIL = ("backtrack", "add")


def backtrack() -> None:
    re.match(r"(a+)+$", "a" * 60 + "b")


def add() -> None:
    sum(range(10**13))


# Many callbacks in one turn: the loop moves.


def step() -> None:
    time.sleep(SHORT)


async def task() -> None:
    step()


def callbacks() -> None:
    for _ in range(150):
        asyncio.get_running_loop().call_soon(step)


def tasks() -> None:
    kept.extend(asyncio.create_task(task()) for _ in range(150))


kept: list[asyncio.Task[None]] = []


async def block(way: str, seconds: float) -> None:
    if way in HOLD_THE_GIL:
        product.LAST_RESORT = 2.0  # of the 10 s nothing but the wait is different
    watchdog = Watchdog(seconds)
    watchdog.start()
    await asyncio.sleep(0.05)
    globals()[way]()
    await asyncio.sleep(2 * seconds)  # longer than until its next beat
    watchdog.stop()


def child(way: str, seconds: float, make: Callable[[], Any], file: int) -> None:
    os.dup2(file, 2)
    status = 3
    try:
        dump_stacks_on_demand()
        with asyncio.Runner(loop_factory=make) as runner:
            runner.run(block(way, seconds))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    seconds, times, loop, *ways = sys.argv[1:]
    make = uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop
    running: dict[int, tuple[str, int]] = {}
    todo = deque(list(ways) * int(times))
    while todo or running:
        if todo and len(running) < AT_ONCE:
            way = todo.popleft()
            file = os.memfd_create(way)
            if not (pid := os.fork()):
                child(way, float(seconds), make, file)
            running[pid] = way, file
            continue
        pid, status = os.wait()
        way, file = running.pop(pid)
        with open(file, "r+b") as output:  # noqa: PTH123 - a number
            output.seek(0)
            text = output.read().decode()
        sys.stdout.write(json.dumps([way, os.waitstatus_to_exitcode(status), text]) + "\n")


if __name__ == "__main__":
    main()
