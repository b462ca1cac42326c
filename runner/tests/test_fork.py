"""Fork mode: one port, several processes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.net import free_port
from support.proc import is_alive
from support.runner import PARENT, TESTS, Eyewall, Posters, WebSocket, ask_admin, command, environment, refused
from support.waiting import until

pytestmark = pytest.mark.slow

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
PROGRAM = str(TESTS / "eyewall_program.py")

# Each has two processes, by another way.
WAYS: list[dict[str, Any]] = [
    {"arguments": [SAMPLE, "--processes", "2"]},
    {"arguments": [PROGRAM, "--processes", "2"], "program": ["listen"]},
    {"arguments": [PROGRAM], "program": ["start"]},
    {"arguments": [PROGRAM], "program": ["fork"]},
]


def run(start: Start, way: dict[str, Any], port: int = 0) -> Eyewall:
    return start(*way["arguments"], program=way.get("program", ()), port=port).ready()


def pids(server: Eyewall) -> list[int]:
    return [process["pid"] for process in server.status()["processes"]]


@pytest.mark.parametrize("way", WAYS, ids=["factory", "processes", "start", "fork"])
def test_a_handover_loses_nothing(start: Start, way: dict[str, Any]) -> None:
    old = run(start, way)
    olds = pids(old)
    with Posters(old.port, threads=4) as posters:
        until(lambda: set(olds) <= set(posters.answered), "answers from both")
        new = run(start, way, port=old.port)
        news = pids(new)
        until(lambda: set(news) <= set(posters.answered), "answers from both successors")
        old.send(signal.SIGTERM)
        assert old.wait() == 0, old.log
        enough = len(posters.answered) + 20
        until(lambda: len(posters.answered) > enough)
    assert posters.lost == []
    assert set(posters.answered) == {*olds, *news}
    assert set(posters.answered[-20:]) <= set(news)
    assert not any(is_alive(pid) for pid in olds)
    assert new.status()["pid"] == new.process.pid
    assert "Traceback" not in old.log


def test_the_group_answers_for_its_children(start: Start) -> None:
    server = run(start, WAYS[0])
    for _ in range(10):
        server.get()
    websocket = WebSocket(server).handshake()
    status = server.status()
    assert (status["state"], status["pid"]) == ("ready", server.process.pid)
    # the request that became a WebSocket is one of them
    assert (status["requests"], status["websockets"]) == (11, 1)
    assert sum(process["requests"] for process in status["processes"]) == 11
    assert status["open_files"] == max(process["open_files"] for process in status["processes"])
    metrics = ask_admin(server.admin, "/metrics")[1]
    for number in (0, 1):
        assert f'eyewall_ready{{process="{number}"}} 1.0' in metrics
        own = ask_admin(server.admin.with_name(f"{server.admin.name}.{number}"), "/status")[1]
        assert json.loads(own)["pid"] == status["processes"][number]["pid"]
    server.send(signal.SIGTERM)
    assert websocket.wait_for_close() == (1012, "service restart")
    assert server.wait() == 0
    assert list(server.admin.parent.glob("*.sock*")) == []
    assert list(server.admin.parent.glob(".*.sock*")) == []


def test_a_group_is_ready_when_all_of_its_own_children_are(start: Start) -> None:
    """Where its second child will have its admin socket, that of its predecessor's answers meanwhile."""
    old = run(start, WAYS[0])
    olds = set(pids(old))
    new = start("eyewall_sample:make_app_later_in_the_second", "--processes", "2", port=old.port)

    def first() -> tuple[int, str] | None:
        status, body = ask_admin(new.admin, "/ready")
        answer = json.loads(body)
        return (status, answer["state"]) if answer["pid"] == new.process.pid else None

    assert until(first) == (503, "starting")
    assert not set(pids(new.ready())) & olds


def test_a_child_that_dies_is_forked_again(start: Start) -> None:
    server = run(start, WAYS[0])
    first, second = pids(server)
    os.kill(first, signal.SIGKILL)
    until(lambda: ask_admin(server.admin, "/ready")[0] == 200 and first not in pids(server))
    assert pids(server)[1] == second
    server.send(signal.SIGTERM)
    assert server.wait() == 0


def test_no_child_outlives_its_parent(start: Start) -> None:
    server = run(start, WAYS[0])
    children = pids(server)
    server.send(signal.SIGKILL)
    server.wait()
    until(lambda: not any(is_alive(pid) for pid in children))
    assert server.log.count("drain starts (the group stops)") == 2


def test_an_orphaned_group_serves_until_its_successor_is_there(start: Start, tmp_path: Path) -> None:
    port = free_port()
    admin = tmp_path / f"{port}.sock"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            PARENT,
            *command("--port", str(port), "--admin", str(admin), "--processes", "2", SAMPLE),
        ],
        env=environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    try:
        until(lambda: ask_admin(admin, "/ready")[0] == 200)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        time.sleep(1.5)
        assert json.loads(ask_admin(admin, "/ready")[1])["pid"] == orphan
        run(start, WAYS[0], port=port)
        until(lambda: not is_alive(orphan), "the orphan's end")
    finally:
        if is_alive(orphan):
            os.kill(orphan, signal.SIGKILL)


def test_a_signal_to_all_of_the_group_is_one_signal(start: Start) -> None:
    """As supervisord's ``stopasgroup`` sends it."""
    server = run(start, WAYS[0])
    for pid in (server.process.pid, *pids(server)):
        os.kill(pid, signal.SIGTERM)
    assert server.wait() == 0
    assert "second SIGTERM" not in server.log


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--processes", "2", "eyewall_sample:raises"], "the factory raised RuntimeError: no database here"),
        ([PROGRAM, "fork_and_raise"], "raised RuntimeError: no database here"),
        (["--start", "1", PROGRAM, "fork_and_listen_not"], "did not listen with a Tornado HTTPServer within 1 s"),
    ],
)
def test_a_group_that_cannot_start_is_ended(arguments: list[str], wanted: str) -> None:
    text = refused("--port", str(free_port()), *arguments)
    assert wanted in text
    assert text.count("Starting 2 processes") == 1
    assert "exited normally" not in text.partition("the group of 2 stops")[0]


def test_forked_twice() -> None:
    text = refused("--port", str(free_port()), "--processes", "2", PROGRAM, "start")
    assert f"eyewall: {PROGRAM}: forks by itself, and --processes is given; leave one of them out" in text
