"""A loop that no longer turns."""

import signal
import time
from collections.abc import Callable

from eyewall_harness import Eyewall

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
BLOCK = b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_blocked_loop_dies_and_leaves_its_stack(start: Start) -> None:
    server = start(SAMPLE, "--watchdog", "2").ready()
    with server.connect() as connection:
        begin = time.monotonic()
        connection.sendall(BLOCK)
        assert server.wait() == 1
        assert time.monotonic() - begin < 8
    assert "Timeout (0:00:02)" in server.log
    assert "eyewall_sample.py" in server.log
    assert "in get" in server.log


def test_a_loop_that_turns_lives(start: Start) -> None:
    server = start(SAMPLE, "--watchdog", "1").ready()
    time.sleep(2.5)
    assert server.get()["pid"] == server.process.pid


def test_0_turns_it_off(start: Start) -> None:
    server = start(SAMPLE, "--watchdog", "0").ready()
    with server.connect() as connection:
        connection.sendall(BLOCK)
        time.sleep(2)
        assert server.process.poll() is None
    assert "Timeout" not in server.log


def test_sigusr1_dumps_the_stacks_and_goes_on(server: Eyewall) -> None:
    server.send(signal.SIGUSR1)
    server.logged("most recent call first")
    assert server.get()["pid"] == server.process.pid
