"""A loop that no longer moves, and one that is busy."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import eyewall_blocked
import pytest
from support.runner import Eyewall, environment

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
BLOCK = b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n"
LOOPS = ("uvloop", "asyncio")


def blocked(seconds: float, times: int, loop: str, *ways: str) -> list[tuple[str, int, str]]:
    """Block the loops of processes that have a watchdog: for each its way, its exit status, its stderr."""
    command = [sys.executable, eyewall_blocked.__file__, str(seconds), str(times), loop, *ways]
    done = subprocess.run(command, env=environment(), check=True, stdout=subprocess.PIPE)
    results = [tuple(json.loads(line)) for line in done.stdout.splitlines()]
    assert len(results) == times * len(ways)
    return results


def test_a_blocked_loop_dies_and_leaves_its_stack(start: Start) -> None:
    server = start(SAMPLE, "--watchdog-timeout", "2").ready()
    with server.connect() as connection:
        begin = time.monotonic()
        connection.sendall(BLOCK)
        assert server.wait() == 1
        assert time.monotonic() - begin < 8
    assert "Timeout (0:00:02)" in server.log
    assert "eyewall_sample.py" in server.log
    assert "in get" in server.log


@pytest.mark.parametrize(
    ("loop", "times"), [("uvloop", 1), *(pytest.param(loop, 15, marks=pytest.mark.slow) for loop in LOOPS)]
)
def test_every_time_the_stack_is_whole(loop: str, times: int) -> None:
    """However deep and busy it is: from the outermost frame to the one that names the reason, and status 1, never SIGSEGV.

    faulthandler's timer, which was the watchdog before, had a stack of one frame here, or of 100, or crashed.
    """
    ways = ("sleep", "receive", "recurse", "generate", "deep", "deep_and_busy", "threads")
    for way, status, text in blocked(0.5, times, loop, *ways):
        assert (status, text.count("Timeout (")) == (1, 1), (way, text)
        stack = text.rpartition("(most recent call last)")[2]  # the loop's is the last
        assert "in <module>\n" in stack, (way, text)
        assert f"in {way}\n" in stack or "in recurse\n" in stack, (way, text)
        if way.startswith("deep"):
            frames = stack.count("in there\n") + stack.count("in back\n")
            assert frames == eyewall_blocked.FRAMES + 1 - 300 * (way == "deep_and_busy"), (way, text)
        if way == "threads":
            assert "in recurse\n" in text, text


def test_of_an_endless_stack_both_ends_are_shown() -> None:
    ((_, status, text),) = blocked(0.5, 1, "uvloop", "endless")
    assert status == 1
    assert "in <module>\n" in text
    assert "frames are left out" in text
    assert "in recurse\n" in text
    assert text.count('  File "') < 2500


@pytest.mark.slow
def test_c_code_that_holds_the_gil() -> None:
    """No thread of Python's has its turn then; the last resort needs none."""
    for way, status, text in blocked(0.5, 1, "uvloop", *eyewall_blocked.HOLD_THE_GIL):
        assert status == 1, (way, text)
        assert f"in {way}\n" in text, (way, text)


@pytest.mark.slow
@pytest.mark.parametrize("loop", LOOPS)
def test_a_turn_that_is_long_and_moves_lives(loop: str) -> None:
    """One turn of six times the watchdog's seconds. One callback of that time is the test above."""
    for way, status, text in blocked(0.5, 1, loop, "callbacks", "tasks"):
        assert (status, "it moved" in text) == (0, True), (way, text)


@pytest.mark.slow
def test_a_loop_that_turns_lives(start: Start) -> None:
    server = start(SAMPLE, "--watchdog-timeout", "1").ready()
    time.sleep(2.5)
    assert server.get()["pid"] == server.process.pid


@pytest.mark.slow
def test_0_turns_it_off(start: Start) -> None:
    server = start(SAMPLE, "--watchdog-timeout", "0").ready()
    with server.connect() as connection:
        connection.sendall(BLOCK)
        time.sleep(2)
        assert server.process.poll() is None
    assert "Timeout" not in server.log


def test_sigusr1_dumps_the_stacks_and_goes_on(server: Eyewall) -> None:
    server.send(signal.SIGUSR1)
    server.logged("most recent call first")
    assert server.get()["pid"] == server.process.pid
