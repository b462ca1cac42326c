"""The move from generation to generation, with a real supervisord and processes that do as they are told."""

import fcntl
import gc
import grp
import itertools
import json
import os
import pwd
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Self

import pytest
from eyewall_support import load_module, render, run_module

HERE = Path(__file__).parent
USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
NAMES = itertools.count(1)
# supervisor's own transport leaves its connections to the garbage collector
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away (chown)")


class Poller(threading.Thread):
    """Asks every port, each time on a new connection, until it is told to end; reads the link `current`."""

    def __init__(self, host: "Host", ports: list[int]) -> None:
        super().__init__(daemon=True)
        self.host, self.ports, self.ending = host, ports, threading.Event()
        self.answers: dict[int, list[str]] = {port: [] for port in ports}
        self.failures: list[str] = []

    def run(self) -> None:
        with self.host.lock.open("w") as lock:
            while not self.ending.is_set():
                for port in self.ports:
                    try:
                        self.answers[port].append(ask_port(port, lock.fileno()))
                    except OSError as error:
                        self.failures.append(f"{port}: {error!r}")
                try:
                    (self.host.root / "current").readlink()
                except OSError as error:
                    self.failures.append(repr(error))
                time.sleep(0.006)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.join()

    def saw(self, port: int) -> list[str]:
        """Return the generations that answered on a port, each once."""
        return list(dict.fromkeys(self.answers[port]))


def ask_port(port: int, lock: int | None = None) -> str:
    """Return the generation that answers on a port."""
    with socket.socket() as connection:
        connection.settimeout(3)
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            connection.connect(("127.0.0.1", port))
        finally:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_UN)
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    if not answer.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"answered {answer!r}")
    return answer.rpartition(b"\r\n")[2].decode()


class Host:
    """One application on one host: its directories, and a supervisord."""

    module: ModuleType  # the Ansible module, which is told this host's places

    def __init__(self, place: Path, free_ports: Callable[[int], list[int]]) -> None:
        self.root, self.confs = place / "opt", place / "conf.d"
        self.sockets, self.lock, self.events_file = place / "run", place / "lock", place / "events"
        self.places = {
            "tornado_app_root": str(self.root),
            "tornado_app_data": str(place),
            "tornado_app_logs": str(place),
            "tornado_app_sockets": str(self.sockets),
            "tornado_app_user": USER,
            "tornado_app_drain": 0,
        }
        self.ports = free_ports(4)
        self.name = f"app{next(NAMES)}"
        interpreter = self.root / "releases" / "1.0.0" / "venv" / "bin" / "python"
        for directory in (self.root / "generations", interpreter.parent, self.confs, self.sockets):
            directory.mkdir(parents=True)
        for file in (self.lock, self.events_file):
            file.touch()
        # the release's interpreter is asked for `-P -m eyewall …`
        interpreter.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} -I -S {HERE / "fake_runner.py"} "$@"\n')
        interpreter.chmod(0o755)
        self.socket, conf = place / "supervisor.sock", place / "supervisord.conf"
        conf.write_text(
            f"[unix_http_server]\nfile={self.socket}\n"
            f"[supervisord]\nnodaemon=true\nlogfile={place}/supervisord.log\npidfile={place}/pid\nminfds=256\nloglevel=warn\n"
            "[rpcinterface:supervisor]\nsupervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
            f"[include]\nfiles={self.confs}/*.conf\n"
        )
        program = Path(sys.executable).with_name("supervisord")
        command = [sys.executable, program, "--configuration", conf]
        self.daemon = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def end(self) -> None:
        pids = [info["pid"] for info in self.rpc.getAllProcessInfo()] if hasattr(self, "module") else []
        self.daemon.kill()
        self.daemon.wait()
        for pid in filter(None, pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    @property
    def rpc(self) -> Any:
        return self.module.supervisord()

    def params(
        self,
        letter: str,
        ports: list[int] | None = None,
        *,
        startsecs: int = 0,
        stopwaitsecs: int = 10,
        settings: dict[str, str] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Return the module's arguments for a generation, with the role's own template for its program."""
        ports = self.ports[:2] if ports is None else ports
        generation = f"{self.name}-1.0.0-{letter * 6}"
        program = render(
            "tornado_app/etc/supervisor/conf.d/program.conf.j2",
            **self.places,
            __tornado_app_generation=generation,
            __tornado_app_release="1.0.0",
            __tornado_app_preflight={"ports": ports},
        )
        # the role's second after each start is spared where a test does not need it
        for key, seconds in (("startsecs", startsecs), ("stopwaitsecs", stopwaitsecs)):
            program, found = re.subn(rf"(?m)^{key}=\d+$", f"{key}={seconds}", program)
            assert found == 1
        return {
            "name": self.name,
            "root": str(self.root),
            "generation": generation,
            "release": "1.0.0",
            "program": program,
            "settings": {"EVENTS": str(self.events_file), "LOCK": str(self.lock), **(settings or {})},
            "secrets": {},
            "ports": ports,
            "group": GROUP,
            "sockets": str(self.sockets),
            "start_timeout": 10,
            "stop_timeout": 10,
            "batch": 1,
            "surplus": "stop",
            "log_lines": 20,
            **more,
        }

    def move(self, params: dict[str, Any]) -> Any:
        mover = self.module.Mover(params)
        mover.move()
        return mover

    def events(self) -> list[tuple[str, int, str]]:
        """Return what processes did, in order: generation, port, what."""
        lines = (line.split(" ", 2) for line in self.events_file.read_text().splitlines())
        return [(generation, int(port), what) for generation, port, what in lines]

    def when(self, params: dict[str, Any], port: int, what: str) -> int:
        return self.events().index((params["generation"], port, what))

    def groups(self) -> set[str]:
        return {info["group"] for info in self.rpc.getAllProcessInfo()}

    def running(self) -> set[tuple[str, int]]:
        """Return every process that lives, by generation and port."""
        return {(info["group"], int(info["name"])) for info in self.rpc.getAllProcessInfo() if info["pid"]}

    def is_at(self, params: dict[str, Any]) -> None:
        """Assert that this generation is the host's, wholly and alone."""
        generation = params["generation"]
        assert {port: ask_port(port) for port in params["ports"]} == dict.fromkeys(params["ports"], generation)
        for _ in range(5):  # the kernel spreads connections over whoever listens
            assert {ask_port(port) for port in params["ports"]} == {generation}
        assert self.running() == {(generation, port) for port in params["ports"]}
        assert self.groups() == {generation}
        assert [path.name for path in self.confs.iterdir()] == [f"{generation}.conf"]
        assert str((self.root / "current").readlink()) == f"generations/{generation}"
        # what `supervisorctl update` would do, and what a supervisord that starts anew finds
        assert self.rpc.reloadConfig() == [[[], [], []]]


@pytest.fixture
def generation_module() -> Iterator[ModuleType]:
    yield load_module("tornado_app", "tornado_app_generation")
    gc.collect()  # while this file's filter of warnings holds


@pytest.fixture(scope="module")
def next_host(
    tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]
) -> Iterator[Callable[[], Host]]:
    """Give hosts whose supervisord was started while the test before was running."""
    spare: list[Host] = []

    def take() -> Host:
        spare.append(Host(tmp_path_factory.mktemp("host"), free_ports))
        return spare.pop(0)

    spare.append(Host(tmp_path_factory.mktemp("host"), free_ports))
    gc.freeze()  # of what is there now (Ansible) nothing is garbage: each test's collection is a fast one
    yield take
    gc.unfreeze()
    for host in spare:
        host.end()


@pytest.fixture
def host(
    generation_module: ModuleType, next_host: Callable[[], Host], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Host]:
    taken = next_host()
    monkeypatch.setattr(generation_module, "SOCKET", f"unix://{taken.socket}")
    monkeypatch.setattr(generation_module, "PROGRAMS", taken.confs)
    monkeypatch.setattr(generation_module, "POLL_SECONDS", 0.02)
    taken.module = generation_module
    yield taken
    taken.end()


# ---- The move ----


def test_first_start_and_the_same_again(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    first = host.params("a", startsecs=1, batch=2)
    result = run_module(host.module, capsys, **first)
    assert result["changed"] is True
    assert [entry["process"] for entry in result["processes"]] == [
        f"{first['generation']}:{port}" for port in first["ports"]
    ]
    assert all(set(entry) == {"process", "ready_seconds"} for entry in result["processes"]), "nothing was drained"
    # ready is who has stayed up for startsecs
    assert all(entry["ready_seconds"] >= 1 for entry in result["processes"])
    assert result["diff"] == {"before": "\n", "after": f"{first['generation']}\n"}
    assert result["surplus"] == []
    host.is_at(first)
    before = host.events()
    again = run_module(host.module, capsys, **first)
    assert again["changed"] is False, "a generation that was just started is not done"
    assert again["processes"] == []
    assert host.events() == before


def test_handover_port_by_port_without_a_lost_request(host: Host) -> None:
    old, new = host.params("a"), host.params("b")
    host.move(old)
    with Poller(host, old["ports"]) as poller:
        mover = host.move(new)
        time.sleep(0.1)
    assert poller.failures == []
    first, second = new["ports"]
    for port in (first, second):
        assert poller.saw(port) == [old["generation"], new["generation"]]
        assert len(poller.answers[port]) > 20
        assert host.when(new, port, "ready") < host.when(old, port, "leaving")
        assert set(mover.report[port]) == {"ready_seconds", "drained_seconds"}
    # one at a time: the next port's turn comes when the old process is gone
    assert host.when(old, first, "gone") < host.when(new, second, "ready")
    host.is_at(new)


def test_the_poller_of_these_tests_sees_a_stop_before_a_start(host: Host) -> None:
    old, new = host.params("a"), host.params("b")
    mover = host.move(old)
    port = old["ports"][0]
    with Poller(host, [port]) as poller:
        naive = host.module.Mover(new)
        naive.write()
        naive.add_group(new["generation"])
        mover.stop(old["generation"], [port])
        naive.start(new["generation"], [port])
        time.sleep(0.05)
    assert any("ConnectionRefused" in failure for failure in poller.failures)
    assert poller.saw(port) == [old["generation"], new["generation"]]


def test_how_long_each_process_took_to_leave(host: Host) -> None:
    first, second = host.ports[:2]
    old = host.params("a", settings={"DRAIN": "0.5", "DRAIN_PORT": str(first)})
    host.move(old)
    mover = host.move(host.params("b", batch=2))
    drained = [mover.report[port]["drained_seconds"] for port in (first, second)]
    assert 0.5 <= drained[0] < 2
    assert drained[1] < drained[0] - 0.2, "it did not take as long as the one beside it"


def test_a_batch_changes_hands_together(host: Host) -> None:
    old, new = host.params("a", batch=2), host.params("b", batch=2)
    host.move(old)
    host.move(new)
    first, second = new["ports"]
    last_ready = max(host.when(new, first, "ready"), host.when(new, second, "ready"))
    assert last_ready < min(host.when(old, first, "leaving"), host.when(old, second, "leaving"))
    host.is_at(new)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3)], ids=["fewer", "more"])
def test_another_number_of_ports(host: Host, before: int, after: int) -> None:
    old, new = host.params("a", host.ports[:before], batch=3), host.params("b", host.ports[:after])
    host.move(old)
    with Poller(host, host.ports[:1]) as poller:
        host.move(new)
    assert poller.failures == []
    host.is_at(new)
    for port in host.ports[after:]:
        with pytest.raises(ConnectionRefusedError):
            ask_port(port)


def test_other_ports(host: Host) -> None:
    old, new = host.params("a", host.ports[:2]), host.params("b", host.ports[2:])
    host.move(old)
    host.move(new)
    host.is_at(new)
    with pytest.raises(ConnectionRefusedError):
        ask_port(old["ports"][0])


def test_fewer_processes_keep_the_surplus_until_it_is_told_to_stop(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    old = host.params("a", host.ports, batch=4)
    keep = host.params("b", batch=2, surplus="keep")
    stop = keep | {"surplus": "stop"}
    wanted, surplus = host.ports[:2], host.ports[2:]
    names = [f"{old['generation']}:{port}" for port in surplus]
    both = {(keep["generation"], port) for port in wanted} | {(old["generation"], port) for port in surplus}
    host.move(old)

    with Poller(host, host.ports) as poller:
        result = run_module(host.module, capsys, **keep)
        time.sleep(0.1)
    assert poller.failures == []
    for port in wanted:
        assert poller.saw(port) == [old["generation"], keep["generation"]]
    for port in surplus:
        assert poller.saw(port) == [old["generation"]]
        assert ask_port(port) == old["generation"]
    assert (result["changed"], result["surplus"]) == (True, names)
    assert [entry["process"] for entry in result["processes"]] == [f"{keep['generation']}:{port}" for port in wanted]
    assert host.running() == both
    assert str((host.root / "current").readlink()) == f"generations/{keep['generation']}"
    assert {path.stem for path in host.confs.iterdir()} == host.groups() == {old["generation"], keep["generation"]}

    # that is all there is to do for `keep`, and not for `stop`
    before = host.events()
    assert host.module.Mover(keep).is_done()
    assert not host.module.Mover(stop).is_done()
    again = run_module(host.module, capsys, **keep)
    assert (again["changed"], again["surplus"], again["processes"]) == (False, names, [])
    check = run_module(host.module, capsys, check=True, **stop)
    assert (check["changed"], check["surplus"]) == (True, names)
    assert host.events() == before
    assert host.running() == both

    with Poller(host, wanted) as poller:
        result = run_module(host.module, capsys, **stop)
    assert poller.failures == []
    assert (result["changed"], result["surplus"]) == (True, [])
    drained = {
        entry["process"]: entry["drained_seconds"] for entry in result["processes"] if "drained_seconds" in entry
    }
    assert list(drained) == names, "only those have left, and by their own name"
    assert set(host.events()[len(before) :]) == {
        (old["generation"], port, what) for port in surplus for what in ("leaving", "gone")
    }
    host.is_at(keep)
    for port in surplus:
        with pytest.raises(ConnectionRefusedError):
            ask_port(port)
    assert host.module.Mover(keep).is_done()
    assert host.module.Mover(stop).is_done()


def test_an_old_process_on_a_wanted_port_is_no_surplus(host: Host) -> None:
    old, keep = host.params("a", host.ports[:2], batch=2), host.params("b", host.ports[:1], surplus="keep")
    first, second = old["ports"]
    host.move(old)
    host.move(keep)
    assert host.module.Mover(keep).is_done()
    # as an interrupted way back leaves it
    abandoned = host.module.Mover(old)
    abandoned.start(old["generation"], [first])
    mover = host.module.Mover(keep)
    assert mover.surplus() == [f"{old['generation']}:{second}"]
    assert not mover.is_done(), "two generations answer on one port"
    mover.move()
    assert mover.is_done()
    assert host.running() == {(keep["generation"], first), (old["generation"], second)}
    assert ask_port(second) == old["generation"]


def test_what_is_kept_goes_with_the_next_move_that_has_its_ports(host: Host) -> None:
    first, second = host.params("a", host.ports[:3], batch=3), host.params("b", host.ports[:1], surplus="keep")
    third = host.params("c", host.ports[:3], batch=3, surplus="keep")
    host.move(first)
    host.move(second)
    with Poller(host, host.ports[:3]) as poller:
        host.move(third)
    assert poller.failures == []
    host.is_at(third)


def test_a_process_that_does_not_leave_is_killed_and_the_move_goes_on(host: Host) -> None:
    old = host.params("a", host.ports[:1], stopwaitsecs=1, settings={"MISBEHAVE": "ignore SIGTERM"})
    new = host.params("b", host.ports[:1])
    host.move(old)
    mover = host.move(new)
    assert mover.report[host.ports[0]]["drained_seconds"] >= 0.9
    host.is_at(new)


# ---- Interruptions ----


@pytest.mark.parametrize("where", ["added", "started", "stopping", "moved but for the link"])
def test_the_same_command_finishes_what_was_interrupted(host: Host, where: str) -> None:
    old, new = host.params("a", settings={"DRAIN": "0.3"} if where == "stopping" else None), host.params("b")
    host.move(old)
    first = new["ports"][0]
    steps: list[tuple[str, Callable[[Any], object]]] = [
        ("written", lambda mover: mover.write()),  # needs no test of its own: adding goes on from there
        ("added", lambda mover: mover.add_group(mover.generation)),
        ("started", lambda mover: mover.start(mover.generation, [first])),
        ("stopping", lambda mover: mover.rpc.stopProcess(f"{old['generation']}:{first}", False)),
    ]
    if where == "moved but for the link":
        steps[3:] = [
            ("", lambda mover: mover.start(mover.generation, new["ports"])),
            (where, lambda mover: mover.stop(old["generation"], old["ports"])),
        ]
    with Poller(host, old["ports"]) as poller:
        abandoned = host.module.Mover(new)
        for name, step in steps:
            step(abandoned)
            if name == where:
                break
        assert abandoned.current == old["generation"], "what starts at boot is the old one until the end"
        host.move(new)
    assert poller.failures == []
    host.is_at(new)


def test_back_to_the_old_one_after_an_interruption(host: Host) -> None:
    old, new = host.params("a"), host.params("b")
    host.move(old)
    abandoned = host.module.Mover(new)
    abandoned.write()
    abandoned.add_group(new["generation"])
    first = new["ports"][:1]
    abandoned.start(new["generation"], first)
    abandoned.stop(old["generation"], first)
    with Poller(host, old["ports"]) as poller:
        host.move(old)
    assert poller.failures == []
    host.is_at(old)


def test_back_to_the_old_one_while_a_process_of_it_still_drains(host: Host) -> None:
    old, new = host.params("a", settings={"DRAIN": "0.5"}, start_timeout=3), host.params("b")
    host.move(old)
    abandoned = host.module.Mover(new)
    abandoned.write()
    abandoned.add_group(new["generation"])
    first = new["ports"][0]
    abandoned.start(new["generation"], [first])
    abandoned.rpc.stopProcess(f"{old['generation']}:{first}", False)
    with Poller(host, old["ports"]) as poller:
        host.move(old)
    assert poller.failures == []
    host.is_at(old)


def test_a_process_that_was_killed_is_started_by_the_same_command(host: Host) -> None:
    only = host.params("a")
    host.move(only)
    host.rpc.stopProcess(f"{only['generation']}:{only['ports'][1]}")
    mover = host.module.Mover(only)
    assert mover.to_do() == only["ports"][1:]
    mover.move()
    host.is_at(only)


# ---- Failures ----


@pytest.mark.parametrize(
    ("misbehaviour", "why", "line"),
    [
        ("never ready", "was not ready within 1 s", "starting"),
        ("exit at start", "ended", "does not find its database"),
        ("exit after ready", "ended", "gives up"),
    ],
)
def test_a_generation_that_fails_leaves_the_old_one_on_every_port(
    host: Host, misbehaviour: str, why: str, line: str
) -> None:
    old = host.params("a", batch=2)
    first, bad = old["ports"]
    settings = {"MISBEHAVE": misbehaviour, "BAD_PORT": str(bad)}
    # the one runs, the others do not stay up for startsecs
    times = {"start_timeout": 1} if misbehaviour == "never ready" else {"start_timeout": 5, "startsecs": 1}
    new = host.params("b", settings=settings, **times)
    host.move(old)
    with Poller(host, old["ports"]) as poller, pytest.raises(host.module.Failure) as failed:
        host.move(new)
    # the process, why, and what it said last
    assert str(failed.value).startswith(f"{new['generation']}:{bad} {why}")
    assert f"fake runner {new['generation']} on {bad}: {line}" in str(failed.value)
    # one that dies takes along what is inside it: the one request that this poller may have there
    assert len(poller.failures) <= (misbehaviour == "exit after ready"), poller.failures
    assert poller.answers[first][-1] == old["generation"]
    host.is_at(old)


def test_a_failure_is_a_failed_task_with_the_log_and_without_the_secret(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    first = host.params(
        "a",
        host.ports[:1],
        startsecs=1,
        settings={"MISBEHAVE": "exit at start"},
        secrets={"KEY": "hunter2-hunter2"},
    )
    result = run_module(host.module, capsys, **first)
    assert result["failed"] is True
    assert "does not find its database" in result["msg"]
    assert "hunter2" not in json.dumps(result)


def test_a_first_generation_that_fails_leaves_nothing(host: Host) -> None:
    bad = host.params("a", startsecs=1, settings={"MISBEHAVE": "exit at start"})
    with pytest.raises(host.module.Failure):
        host.move(bad)
    assert host.groups() == set()
    assert list(host.confs.iterdir()) == []
    assert not (host.root / "current").is_symlink()
    good = host.params("b")
    host.move(good)
    host.is_at(good)


def test_after_an_interrupted_one_and_a_failed_one_the_old_one_is_alone(host: Host) -> None:
    old, interrupted = host.params("a"), host.params("b")
    host.move(old)
    abandoned = host.module.Mover(interrupted)
    abandoned.write()
    abandoned.add_group(interrupted["generation"])
    abandoned.start(interrupted["generation"], interrupted["ports"][:1])
    with pytest.raises(host.module.Failure), Poller(host, old["ports"]) as poller:
        host.move(host.params("c", startsecs=1, settings={"MISBEHAVE": "exit at start"}))
    assert poller.failures == []
    host.is_at(old)


def test_back_to_the_old_one_from_between_an_interrupted_one_and_a_failing_one(host: Host) -> None:
    """B has a port of A and one of its own when it is interrupted; C takes the one, and fails on A's next.

    A has a port that neither has, which it serves all the time.
    """
    first, second, spared, own = host.ports
    old = host.params("a", [first, second, spared], batch=3)
    interrupted = host.params("b", host.ports, surplus="keep")
    settings = {"MISBEHAVE": "exit at start", "BAD_PORT": str(second)}
    failing = host.params("c", [first, second], startsecs=1, surplus="keep", settings=settings)
    a, b, c = (params["generation"] for params in (old, interrupted, failing))
    host.move(old)
    abandoned = host.module.Mover(interrupted)
    abandoned.write()
    abandoned.add_group(b)
    abandoned.start(b, [first, own])
    abandoned.stop(a, [first])
    assert host.running() == {(b, first), (b, own), (a, second), (a, spared)}
    with Poller(host, old["ports"]) as poller, pytest.raises(host.module.Failure) as failed:
        host.move(failing)
    assert str(failed.value).startswith(f"{c}:{second} ended")
    assert "Going back" not in str(failed.value)
    assert poller.failures == []
    assert poller.saw(first)[0] == b
    assert c in poller.saw(first), "it had the port"
    assert poller.saw(second) == poller.saw(spared) == [a]
    host.is_at(old)
    with pytest.raises(ConnectionRefusedError):
        ask_port(own)


def test_a_configuration_that_supervisord_refuses_changes_nothing(host: Host) -> None:
    old, new = host.params("a"), host.params("b")
    host.move(old)
    new["program"] = new["program"].replace(f"user={USER}", "user=nobody-by-this-name")
    with pytest.raises(host.module.Failure, match="does not take the group"):
        host.move(new)
    host.is_at(old)


def test_supervisord_that_does_not_answer_is_named(
    generation_module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generation_module, "SOCKET", "unix:///nowhere/supervisor.sock")
    with pytest.raises(generation_module.Failure, match=r"does not answer on unix:///nowhere/supervisor\.sock"):
        generation_module.supervisord(timeout=0.1)


# ---- Check mode ----


def test_check_mode_on_a_bare_host(
    generation_module: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = {
        "name": "board",
        "root": str(tmp_path / "opt"),
        "generation": "board-1",
        "release": "1",
        "program": "",
        "ports": [8000],
        "group": GROUP,
        "sockets": "/run/board",
    }
    result = run_module(generation_module, capsys, check=True, **arguments)
    assert (result["changed"], result["diff"]["after"]) == (True, "board-1\n")
    # neither without supervisor, where nothing but a check can go on
    monkeypatch.setattr(generation_module, "SupervisorTransport", None)
    assert run_module(generation_module, capsys, check=True, **arguments)["changed"] is True
    assert "no supervisor" in run_module(generation_module, capsys, **arguments)["msg"]


def test_check_mode_says_what_would_change_and_changes_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = host.params("a"), host.params("b")
    host.move(old)
    before = host.events()
    assert run_module(host.module, capsys, check=True, **old)["changed"] is False
    result = run_module(host.module, capsys, check=True, **new)
    assert result["changed"] is True
    assert result["diff"] == {"before": f"{old['generation']}\n", "after": f"{new['generation']}\n"}
    assert host.events() == before
    assert not (host.root / "generations" / new["generation"]).exists()
    host.is_at(old)


# ---- What is written ----


@pytest.fixture
def written(generation_module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a generation without a supervisord; its directory."""
    monkeypatch.setattr(generation_module, "supervisord", lambda: None)
    (tmp_path / "generations").mkdir()

    def write(**given: Any) -> Path:
        params = {
            "root": str(tmp_path), "generation": "board-1-aaaaaa", "release": "1", "program": "[program:x]\n",
            "settings": {}, "secrets": {}, "ports": [8000, 8001], "group": GROUP, **given,
        }  # fmt: skip
        generation_module.Mover(params).write()
        return tmp_path / "generations" / "board-1-aaaaaa"

    return write


@as_root
def test_settings_are_for_the_applications_group_alone(written: Callable[..., Path]) -> None:
    other = next(group for group in grp.getgrall() if group.gr_gid != os.getgid())
    status = (written(group=other.gr_name) / "settings.json").stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert (status.st_uid, status.st_gid) == (0, other.gr_gid)


@as_root
def test_a_strict_umask_does_not_lock_the_application_out(written: Callable[..., Path]) -> None:
    before = os.umask(0o077)
    try:
        place = written()
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert stat.S_IMODE((place / "settings.json").stat().st_mode) == 0o640


@as_root
def test_settings_and_secrets_are_one_environment_of_texts(written: Callable[..., Path]) -> None:
    place = written(settings={"DEBUG": True, "SIZE": 3, "RATE": 0.5, "NAME": "ä b"}, secrets={"KEY": "x"})
    assert json.loads((place / "settings.json").read_text()) == {
        "DEBUG": "true", "SIZE": "3", "RATE": "0.5", "NAME": "ä b", "KEY": "x",
    }  # fmt: skip
    assert json.loads((place / "generation.json").read_text()) == {
        "generation": "board-1-aaaaaa", "release": "1", "ports": [8000, 8001],
    }  # fmt: skip
    assert (place / "supervisor.conf").read_text() == "[program:x]\n"


@as_root
def test_an_unfinished_generation_is_written_anew_and_a_finished_one_never(
    written: Callable[..., Path],
) -> None:
    place = written(settings={"NAME": "first"})
    inode = (place / "settings.json").stat().st_ino
    assert (written(settings={"NAME": "second"}) / "settings.json").stat().st_ino == inode
    (place / "generation.json").unlink()
    (place / "left-behind").touch()
    assert json.loads((written(settings={"NAME": "second"}) / "settings.json").read_text()) == {"NAME": "second"}
    assert not (place / "left-behind").exists()
