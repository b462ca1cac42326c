"""Who runs as an account beside what supervisord knows: real processes, some of which have left their parents."""

import contextlib
import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.proc import parent
from support.product import helper, load_module

USER = pwd.getpwuid(os.getuid()).pw_name
# A process that supervisord knows. It starts a child, and a daemon whose parent is gone; they listen, and may be stubborn.
TREE = """
import os, signal, socket, sys, time
child_port, daemon_port, name = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
def live(port):
    listener = socket.create_server(("127.0.0.1", port), reuse_port=True) if port else None
    if "stubborn" in name:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.write(ready, f"{os.getpid()}\\n".encode())
    time.sleep(1000)
told, ready = os.pipe()
if os.fork() == 0:
    live(child_port)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        live(daemon_port)
    os._exit(0)
os.wait()
with open(told) as lines:
    print(os.getpid(), int(next(lines)), int(next(lines)), flush=True)
time.sleep(1000)
"""


@pytest.fixture(scope="module")
def strangers() -> ModuleType:
    load_module("handover")
    return helper("strangers")


class Tree:
    """A process that supervisord knows, its child, and its daemon."""

    def __init__(self, place: Path, child_port: int, daemon_port: int, name: str, environment: dict[str, str]) -> None:
        command = [sys.executable, "-c", TREE, str(child_port), str(daemon_port), *name.split()]
        self.process = subprocess.Popen(
            command, cwd=place, env=os.environ | environment, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        pids = list(map(int, self.process.stdout.readline().split()))
        self.known = pids[0]
        parents = {pid: parent(pid) for pid in pids}
        (self.child,) = [pid for pid in pids if parents[pid] == self.known]
        (self.daemon,) = set(pids) - {self.known, self.child}

    def kill(self) -> None:
        for pid in (self.daemon, self.child, self.known):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.communicate()


@pytest.fixture
def grow(tmp_path: Path) -> Iterator[Callable[..., Tree]]:
    trees: list[Tree] = []

    def grow(child_port: int = 0, daemon_port: int = 0, name: str = "tree", **environment: str) -> Tree:
        trees.append(Tree(tmp_path, child_port, daemon_port, name, environment))
        return trees[-1]

    yield grow
    for tree in trees:
        tree.kill()


@pytest.fixture
def seen(strangers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[int, Any]]:
    """Look for strangers, as on a host whose supervisord has `known`, by PID; `service`: all are in its control group."""
    monkeypatch.setattr(strangers, "PAUSE", 0.05)
    process = strangers.process

    def look(
        known: dict[int, str], ports: list[int] | None = None, survivors: list[str] | None = None, service: bool = True
    ) -> dict[int, Any]:
        def in_service(pid: int) -> Any:
            found = process(pid)
            outside = "/user.slice" if pid != os.getpid() else "/system.slice/supervisor.service"
            return found and found._replace(group="/system.slice/supervisor.service" if service else outside)

        monkeypatch.setattr(strangers, "process", in_service)
        watch = strangers.Watch(USER, os.getpid(), lambda: known, ports or [], survivors or [])
        return {one.pid: one for one in watch.strangers()}

    return look


def test_what_descends_from_a_known_process_is_no_stranger_and_a_daemon_is_one(
    grow: Callable[..., Tree], seen: Callable[..., dict[int, Any]], free_ports: Callable[[int], list[int]]
) -> None:
    own, shared = free_ports(2)
    tree = grow(own, shared, "a\tna\033[31mme")
    found = seen({tree.known: "g1:8000"}, [own, shared])
    assert tree.known not in found
    assert tree.child not in found
    daemon = found[tree.daemon]
    assert (daemon.kind, daemon.ports, daemon.account, daemon.of) == ("left", (shared,), USER, "")
    assert daemon.command.isprintable()
    assert len(daemon.command) <= 120
    assert str(daemon).startswith(f"{tree.daemon} of {USER} ('")
    assert (
        abs(time.time() - time.mktime(time.strptime(daemon.result()["since"], "%Y-%m-%dT%H:%M:%SZ")) + time.timezone)
        < 120
    )
    # of another control group it is nobody's of ours; and whose supervisord knows nobody has strangers alone
    assert seen({tree.known: "g1:8000"}, [shared], service=False)[tree.daemon].kind == "foreign"
    assert {tree.known, tree.child, tree.daemon} <= seen({}).keys()


def test_a_port_that_somebody_else_has_beside_a_known_process(
    grow: Callable[..., Tree], seen: Callable[..., dict[int, Any]], free_ports: Callable[[int], list[int]]
) -> None:
    """SO_REUSEPORT: both listen on one port."""
    (port,) = free_ports(1)
    tree = grow(port, port)
    found = seen({tree.known: "g1:8000"}, [port])
    assert tree.child not in found
    assert found[tree.daemon].ports == (port,)


def test_what_says_that_it_is_detached_from_a_known_process(
    grow: Callable[..., Tree], seen: Callable[..., dict[int, Any]], free_ports: Callable[[int], list[int]]
) -> None:
    (port,) = free_ports(1)
    labels = {"SUPERVISOR_GROUP_NAME": "g1", "SUPERVISOR_PROCESS_NAME": "8000"}
    tree, listening = grow(**labels), grow(daemon_port=port, **labels)
    found = seen({tree.known: "g1:8000", listening.known: "g2:8000"}, [port])
    assert (found[tree.daemon].kind, found[tree.daemon].of) == ("detached", "g1:8000")
    # what it says counts for nothing where it listens on a port of the application
    assert (found[listening.daemon].kind, found[listening.daemon].of) == ("left", "")
    # its process has another name now, or was started after it
    assert seen({tree.known: "g2:8000"})[tree.daemon].kind == "left"
    younger = grow()
    assert seen({younger.known: "g1:8000"})[tree.daemon].kind == "left"


def test_a_survivor_may_be_there_and_may_not_have_a_port(
    grow: Callable[..., Tree], seen: Callable[..., dict[int, Any]], free_ports: Callable[[int], list[int]]
) -> None:
    (port,) = free_ports(1)
    tree, listening = grow(name="kernel-17"), grow(daemon_port=port, name="kernel-18")
    found = seen({tree.known: "g1:8000", listening.known: "g1:8001"}, [port], [r"kernel-\d+"])
    assert tree.daemon not in found
    assert found[listening.daemon].ports == (port,)
    # the runner's command line has the pattern, and what it forks has its command line
    forked = grow(name=r"runner --survivor kernel-\d+ --survivor kernel-19 board:make_app")
    assert "board:make_app" in Path(f"/proc/{forked.daemon}/cmdline").read_text()
    assert forked.daemon in seen({forked.known: "g1:8000"}, [], [r"kernel-\d+"])


def test_ended_with_sigterm_and_then_with_sigkill(
    strangers: ModuleType, grow: Callable[..., Tree], seen: Callable[..., dict[int, Any]]
) -> None:
    tree, stubborn = grow(), grow(name="stubborn")
    found = seen({tree.known: "g1:8000", stubborn.known: "g1:8001"})
    wanted = [found[tree.daemon], found[stubborn.daemon]]
    # a number that is another process's by now
    another = found[tree.daemon]._replace(pid=tree.child, started=1)
    begun = time.monotonic()
    assert strangers.end([*wanted, another], 0.5) == wanted
    assert time.monotonic() - begun >= 0.5
    for pid in (tree.daemon, stubborn.daemon):
        assert strangers.process(pid) is None
    assert strangers.process(tree.child) is not None


def test_a_refusal_names_who_and_what_to_do(strangers: ModuleType) -> None:
    one = strangers.Stranger(None, 0, "board", "unknown", (8000,), "foreign", "")
    assert strangers.refusal("board", [one]) == (
        "processes of board: got a process of board ('unknown', listens on port 8000); expected only what supervisord started, "
        "and what that did. End it, or name its command in tornado_app_survivors."
    )
