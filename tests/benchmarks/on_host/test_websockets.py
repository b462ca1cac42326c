"""The benchmark's WebSockets, against the runner: they count what happens, and what goes wrong."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import websockets
from support import REPOSITORY
from support.net import free_port

pytestmark = pytest.mark.slow

RUNNER = REPOSITORY / "runner"
COUNT = 60


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def start(port: int) -> Iterator[Callable[[], "subprocess.Popen[str]"]]:
    """Start the runner's sample on the port; it serves when this returns."""
    path = os.pathsep.join((str(RUNNER / "src"), str(RUNNER / "tests")))
    with ExitStack() as at_exit:

        def start() -> "subprocess.Popen[str]":
            command = [
                sys.executable,
                "-m",
                "eyewall",
                "--port",
                str(port),
                "--drain-timeout",
                "4",
                "eyewall_sample:make_app",
            ]
            process = at_exit.enter_context(
                subprocess.Popen(command, env=os.environ | {"PYTHONPATH": path}, stderr=subprocess.PIPE, text=True)
            )
            at_exit.callback(process.kill)
            assert process.stderr is not None
            assert "serving" in process.stderr.readline()
            return process

        yield start


def test_all_are_open_and_come_back_after_a_handover(port: int, start: Any) -> None:
    old = start()
    with websockets.WebSockets(COUNT, websockets.Target(port, "/echo", 10)) as clients:
        assert clients.open(20) == websockets.Counts(open=COUNT)
        assert clients.echo(20) == websockets.Counts(open=COUNT)
        start()
        old.terminate()
        assert old.wait(20) == 0
        counts = clients.echo(20)
    assert not counts.errors
    assert (counts.open, counts.told) == (COUNT, COUNT)
    assert counts.codes == {1012: COUNT}
    assert 0 < counts.away < 2


def test_those_that_are_cut_are_counted(port: int, start: Any) -> None:
    old = start()
    with websockets.WebSockets(COUNT, websockets.Target(port, "/echo", 10)) as clients:
        clients.open(20)
        start()
        old.kill()
        old.wait()
        time.sleep(0.5)
        counts = clients.echo(20)
    assert counts.open == COUNT
    assert counts.told == 0
    assert sum(counts.errors.values()) >= COUNT


def test_an_answer_that_is_no_websocket_is_counted(port: int, start: Any) -> None:
    start()
    with websockets.WebSockets(2, websockets.Target(port, "/nowhere", 10)) as clients:
        with pytest.raises(TimeoutError, match="open: the WebSockets did not do it within 1 s"):
            clients.open(1)
        assert "no WebSocket: HTTP/1.1 404" in clients.counts().errors
