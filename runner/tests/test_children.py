"""What a process starts has nothing of it, and ends with it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import support.runner
from support.net import free_port
from support.proc import is_alive
from support.runner import PARENT, TESTS, Eyewall, Posters, WebSocket, ask_admin, command, environment, refused
from support.waiting import until

pytestmark = pytest.mark.slow

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
PROGRAM = str(TESTS / "eyewall_program.py")
STARTED: dict[int, bytes] = {}  # what the tests have let processes start, with its command line
KINDS = ("executed", "in_a_session", "forked_in_c", "daemon")

WAYS: dict[str, dict[str, Any]] = {
    "uvloop": {"arguments": [SAMPLE]},
    "asyncio": {"arguments": [SAMPLE, "--no-uvloop"]},
    "program": {"arguments": [PROGRAM], "program": ["listen"]},
    "program on asyncio": {"arguments": [PROGRAM, "--no-uvloop"], "program": ["asyncio_run"]},
    "group": {"arguments": [SAMPLE, "--processes", "2"]},
    "program that forks": {"arguments": [PROGRAM], "program": ["fork"]},
    "wsgi": {"arguments": [SAMPLE, "--wsgi"]},
}


@pytest.fixture(autouse=True)
def labels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run every process as supervisord does: with a name in its environment, first of a group."""
    own = environment() | {"SUPERVISOR_GROUP_NAME": f"board-{os.getpid()}", "SUPERVISOR_PROCESS_NAME": "8000"}
    monkeypatch.setattr(support.runner, "environment", lambda: own)
    yield
    while STARTED:  # what a test left that failed
        pid, command = STARTED.popitem()
        if command_of(pid) == command:
            os.kill(pid, signal.SIGKILL)


def run(start: Start, way: str, *options: str, port: int = 0) -> Eyewall:
    target, *more = WAYS[way]["arguments"]
    return start(target, *more, *options, program=WAYS[way].get("program", ()), port=port).ready()


def command_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


def begin(server: Eyewall, *kinds: str) -> dict[str, int]:
    """Let a process start others; their pids. A pool has worked as well."""
    found = {"pool": int(server.get("/pool")["child"]["pid"])}
    found |= {kind: int(server.get(f"/begin?how={kind}")["pid"]) for kind in kinds}
    STARTED.update((pid, command) for pid in found.values() if (command := command_of(pid)))
    return found


def gone(pids: dict[str, int]) -> None:
    until(lambda: not any(map(is_alive, pids.values())), f"the end of {pids}")


@pytest.mark.parametrize("way", WAYS)
def test_a_forked_child_has_nothing_of_its_parents(start: Start, way: str) -> None:
    server = run(start, way)
    with server.connect(), socket.socket(socket.AF_UNIX) as admin:
        admin.connect(str(server.admin))
        status = ask_admin(server.admin, "/status")
        answer = server.get("/pool")
    assert status[0] == 200
    child, parent = answer["child"], answer["files"]
    private = {what for what in parent.values() if what.startswith(("socket:", "anon_inode:"))}
    # the listener and two connections to it, the admin's and a connection to that
    assert len([what for what in private if what.startswith("socket:")]) >= 5, parent
    assert private & set(child["files"].values()) <= {"anon_inode:[eventpoll]"}, child
    assert child["wakeup"] == -1
    # that one is another, which watches nothing; each thread of gunicorn's has one for a moment
    assert child["watched"] == [] or way == "wsgi"


@pytest.mark.parametrize("way", ["uvloop", "program", "wsgi"])
def test_a_child_that_is_told_to_end_ends_alone(start: Start, way: str) -> None:
    server = run(start, way)
    assert server.get("/terminate") == {"exit": -signal.SIGTERM}
    assert "drain" not in server.log
    assert server.get()["pid"]


def test_a_child_of_a_program_that_handles_signals_on_its_loop_ends(start: Start) -> None:
    server = start(PROGRAM, program=["loop_handler"]).ready()
    assert server.get("/terminate") == {"exit": -signal.SIGTERM}
    assert "own handler" not in server.log


@pytest.mark.parametrize("way", ["uvloop", "asyncio"])
def test_a_child_that_forgets_to_end_disturbs_nobody(start: Start, way: str) -> None:
    """It comes back to the loop, which is its parent's."""
    server = run(start, way)
    for how in ("exits", "goes_on"):
        assert server.get(f"/begin?how={how}")["pid"] > 0
    for _ in range(20):
        assert server.get()["pid"] == server.process.pid
    assert server.status()["pid"] == server.process.pid
    websocket = WebSocket(server).handshake()
    websocket.echo("still here")
    websocket.close()
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert server.log.count("drain starts") == 1


@pytest.mark.parametrize(
    ("way", "how"),
    [
        ("uvloop", "SIGTERM"),
        ("uvloop", "second SIGTERM"),
        ("uvloop", "SIGKILL"),
        ("uvloop", "watchdog"),
        ("program", "SIGTERM"),
        ("wsgi", "SIGTERM"),
        ("wsgi", "SIGKILL"),
        ("wsgi", "watchdog"),
    ],
)
def test_what_a_process_started_ends_with_it(start: Start, way: str, how: str) -> None:
    """By itself, or, where it was killed, by the next one on its port: nothing hangs there afterwards."""
    server = run(start, way, *(["--watchdog-timeout", "1"] if how == "watchdog" else []))
    started = begin(server, *KINDS, *(["stubborn"] if way == "program" or how == "second SIGTERM" else []))
    if how == "watchdog":
        with server.connect() as client:
            client.sendall(b"GET /block HTTP/1.1\r\nHost: x\r\n\r\n")
            server.logged("Timeout (0:00:01)")
    elif how == "second SIGTERM":
        with server.connect():
            server.terminate()
            server.send(signal.SIGTERM)
    else:
        server.send(signal.Signals[how])
    # gunicorn replaces a worker that dies
    if (way, how) != ("wsgi", "watchdog"):
        server.wait()
        server = run(start, way, port=server.port)
    gone(started)
    for _ in range(20):
        assert server.get()["pid"]


@pytest.mark.parametrize("way", ["uvloop", "program", "group"])
def test_a_handover_with_children_loses_nothing(start: Start, way: str) -> None:
    old = run(start, way)
    started = begin(old, *KINDS[:3])
    with Posters(old.port) as posters:
        until(lambda: len(posters.answered) > 50)
        support.runner.environment()["SUPERVISOR_GROUP_NAME"] += "-new"
        new = run(start, way, port=old.port)
        old.send(signal.SIGTERM)
        assert old.wait() == 0, old.log
        enough = len(posters.answered) + 100
        until(lambda: len(posters.answered) > enough)
    assert posters.lost == []
    gone(started)
    assert new.get()["pid"]


def test_an_orphan_and_what_it_started_stay_until_its_successor_is_there(start: Start, tmp_path: Path) -> None:
    port = free_port()
    admin = tmp_path / f"{port}.sock"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, *command("--port", str(port), "--admin", str(admin), SAMPLE)],
        env=support.runner.environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    orphan = int(parent.stdout.readline())
    client = Eyewall.__new__(Eyewall)
    client.port = port
    try:
        until(lambda: ask_admin(admin, "/ready")[0] == 200)
        started = begin(client, *KINDS[:2])
        parent.kill()
        parent.wait()
        parent.stdout.close()
        with Posters(port) as posters:
            until(lambda: len(posters.answered) > 20)
            successor = start(SAMPLE, port=port)
            successor.logged("serving")
            assert (
                all(map(is_alive, [orphan, *started.values()]))
                or "drain starts" in (tmp_path / "orphan.log").read_text()
            )
            until(lambda: not is_alive(orphan), "the orphan's end")
            enough = len(posters.answered) + 20
            until(lambda: len(posters.answered) > enough)
        assert posters.lost == []
        gone(started)
        assert "was killed" not in successor.log
        assert json.loads(ask_admin(admin, "/ready")[1])["pid"] == successor.process.pid
    finally:
        if is_alive(orphan):
            os.kill(orphan, signal.SIGKILL)


def test_survivors(start: Start) -> None:
    # the process has the pattern in its own command line, and what it forks has it as well
    server = start(SAMPLE, "--survivor", "sleep 1000").ready()
    started = begin(server, *KINDS[:3])
    survivor = started.pop("executed")
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    gone(started)
    successor = start(SAMPLE, "--survivor", "sleep 1000", port=server.port).ready()
    assert is_alive(survivor)
    os.kill(survivor, signal.SIGTERM)
    assert "killed" not in successor.log


def test_a_pattern_that_is_none() -> None:
    text = refused("--port", str(free_port()), "--survivor", "(", SAMPLE)
    assert "--survivor: got '('; expected a regular expression (" in text
