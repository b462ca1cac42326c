"""One host for the tests of what starts and stops processes: a real supervisord, and processes that do as told.

tests/plugins/conftest.py takes the fixtures by importing them; they have other names in Python than in pytest.
"""

import fcntl
import functools
import gc
import grp
import itertools
import json
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from support.background import Background
from support.product import built, helper, load_module, preflight, render

HERE = Path(__file__).parent
USER = pwd.getpwuid(os.getuid()).pw_name
GROUP = grp.getgrgid(os.getgid()).gr_name
NAMES = itertools.count(1)
# supervisor's own transport leaves its connections to the garbage collector
UNCLOSED_CONNECTIONS = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class Modules(NamedTuple):
    """The Ansible modules that this is about, and what they share."""

    generation: ModuleType
    info: ModuleType
    smoke_test: ModuleType
    smoke: ModuleType
    groups: ModuleType
    root: ModuleType


class Poller(Background):
    """Asks every port, each time on a new connection, until it is told to end; reads the link `current`."""

    def __init__(self, host: "Host", ports: list[int]) -> None:
        super().__init__()
        self.host, self.ports = host, ports
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


@functools.cache
def program_of(processes: int, *, off_air: bool) -> str:
    """Return what the role's template makes of a generation, but for its place, its name and its first port."""
    return render(
        "tornado_app/etc/supervisor/conf.d/program.conf.j2",
        tornado_app_root="@place@/opt",
        tornado_app_data="@place@",
        tornado_app_logs="@place@",
        tornado_app_sockets="@place@/run",
        tornado_app_user=USER,
        tornado_app_drain_timeout=0,
        __tornado_app_generation="@generation@",
        __tornado_app_build=built("1.0.0"),
        __tornado_app_preflight=preflight(list(range(processes))),
        __tornado_app_smoke_test=off_air,
    )


class Host:
    """One application on one host: its directories, and a supervisord."""

    modules: Modules  # which are told this host's places

    def __init__(self, place: Path, free_ports: Callable[[int], list[int]]) -> None:
        self.root, self.confs = place / "opt", place / "conf.d"
        self.sockets, self.lock, self.events_file = place / "run", place / "lock", place / "events"
        self.place = place
        self.ports = free_ports(4)
        self.name = f"app{next(NAMES)}"
        interpreter = self.root / "releases" / "1.0.0" / "venv" / "bin" / "python"
        for directory in (self.root / "generations", interpreter.parent, self.confs, self.sockets):
            directory.mkdir(parents=True)
        for file in (self.lock, self.events_file):
            file.touch()
        manifest = {"release": "1.0.0", "digest": "", "environment": ""}
        (interpreter.parents[2] / "release.json").write_text(json.dumps(manifest))
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
        pids = [info["pid"] for info in self.rpc.getAllProcessInfo()] if hasattr(self, "modules") else []
        self.daemon.kill()
        self.daemon.wait()
        for pid in filter(None, pids):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue

    @property
    def rpc(self) -> Any:
        return self.modules.groups.supervisord()

    def wanted(
        self,
        letter: str,
        ports: list[int] | None = None,
        *,
        startsecs: int = 0,
        stopwaitsecs: int = 10,
        settings: dict[str, str] | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Return smoke_test's arguments for a generation, with the role's own template for its programs."""
        ports = self.ports[:2] if ports is None else ports
        generation = f"{self.name}-1.0.0-{letter * 6}"
        program, proof = (
            program_of(len(ports), off_air=off_air)
            .replace("@place@", str(self.place))
            .replace("@generation@", generation)
            .replace("numprocs_start=0", f"numprocs_start={ports[0]}")
            for off_air in (False, True)
        )
        # the role's second after each start is spared where a test does not need it
        for key, seconds in (("startsecs", startsecs), ("stopwaitsecs", stopwaitsecs)):
            program, found = re.subn(rf"(?m)^{key}=\d+$", f"{key}={seconds}", program)
            assert found == 1
        return {
            "root": str(self.root),
            "generation": generation,
            "release": "1.0.0",
            "program": program,
            "proof": proof,
            "settings": {"EVENTS": str(self.events_file), "LOCK": str(self.lock), **(settings or {})},
            "secrets": {},
            "ports": ports,
            "group": GROUP,
            "sockets": str(self.sockets),
            "health_path": "/",
            "smoke_paths": [],
            "start_timeout": 10,
            "stop_timeout": 10,
            "log_lines": 20,
            **more,
        }

    def written(
        self, letter: str, ports: list[int] | None = None, *, start_timeout: int = 10, **given: Any
    ) -> dict[str, Any]:
        """Write a generation; return handover's arguments for it. `given` is either module's."""
        own = {
            key: given.pop(key)
            for key in ("parallel_processes", "surplus", "min_ready_seconds", "overlap", "remember")
            if key in given
        }
        wanted = self.wanted(letter, ports, **given)
        self.modules.smoke.SmokeTest(wanted).write()
        shared = {key: wanted[key] for key in ("root", "generation", "sockets", "stop_timeout", "log_lines")}
        defaults = {
            "parallel_processes": 1,
            "surplus": "stop",
            "min_ready_seconds": 0,
            "overlap": True,
            "remember": True,
        }
        defaults |= {"user": None, "survivors": [], "strangers": "refuse", "drain": 10}
        return {**shared, "start_timeout": start_timeout, **defaults, **own}

    def asked(self, params: dict[str, Any], **given: Any) -> dict[str, Any]:
        """Return handover_info's arguments for a generation; `params` are from `written`."""
        return {**{key: params[key] for key in ("root", "generation", "sockets", "user", "survivors")}, **given}

    def manifest(self, params: dict[str, Any]) -> Path:
        return self.root / "generations" / params["generation"] / "generation.json"

    def ports_of(self, params: dict[str, Any]) -> list[int]:
        ports: list[int] = json.loads(self.manifest(params).read_text())["ports"]
        return ports

    def move(self, params: dict[str, Any]) -> Any:
        mover = self.modules.generation.Mover(params)
        mover.move()
        return mover

    def events(self) -> list[tuple[str, int, str]]:
        """Return what processes did, in order: group, port, what."""
        lines = (line.split(" ", 2) for line in self.events_file.read_text().splitlines())
        return [(group, int(port), what) for group, port, what in lines]

    def when(self, params: dict[str, Any], port: int, what: str) -> int:
        return self.events().index((params["generation"], port, what))

    def groups(self) -> set[str]:
        return {info["group"] for info in self.rpc.getAllProcessInfo()}

    def running(self) -> set[tuple[str, int]]:
        """Return every process that lives, by group and port."""
        return {(info["group"], int(info["name"])) for info in self.rpc.getAllProcessInfo() if info["pid"]}

    def is_at(self, params: dict[str, Any]) -> None:
        """Assert that this generation is the host's, wholly and alone."""
        generation, ports = params["generation"], self.ports_of(params)
        assert {port: ask_port(port) for port in ports} == dict.fromkeys(ports, generation)
        for _ in range(5):  # the kernel spreads connections over whoever listens
            assert {ask_port(port) for port in ports} == {generation}
        assert self.running() == {(generation, port) for port in ports}
        assert self.groups() == {generation}
        assert [path.name for path in self.confs.iterdir()] == [f"eyewall-app-{generation}.conf"]
        assert str((self.root / "current").readlink()) == f"generations/{generation}"
        # what supervisorctl's `update` would do, and what a supervisord that is restarted finds
        assert self.rpc.reloadConfig() == [[[], [], []]]


@pytest.fixture(name="modules")
def modules_fixture() -> Iterator[Modules]:
    generation, info, smoke_test = (load_module(name) for name in ("handover", "handover_info", "smoke_test"))
    smoke, groups, root = (helper(name) for name in ("smoke", "groups", "root"))
    yield Modules(generation, info, smoke_test, smoke, groups, root)
    gc.collect()  # while the file's filter of warnings holds


@pytest.fixture(name="next_host", scope="module")
def next_host_fixture(
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


@pytest.fixture(name="host")
def host_fixture(modules: Modules, next_host: Callable[[], Host], monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    taken = next_host()
    monkeypatch.setattr(modules.groups, "SOCKET", f"unix://{taken.socket}")
    monkeypatch.setattr(modules.root, "PROGRAMS", taken.confs)
    monkeypatch.setattr(modules.root, "POLL_SECONDS", 0.02)
    taken.modules = modules
    yield taken
    taken.end()
