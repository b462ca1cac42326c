"""Who may deploy to a host, what is written down of it, and what is said of it afterwards."""

import calendar
import contextlib
import io
import json
import multiprocessing
import os
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from support import REPOSITORY
from support.host_files import add_generation
from support.host_files import record as line
from support.product import evaluate, helper, load_module, run_module

FORK = multiprocessing.get_context("fork")
BEGIN = {"state": "begun", "wanted": "g2", "release": "2.0", "verb": "deploy", "expires": 600}
RUN = {"id": "run-1", "owner": "ada@desk", "controller": "desk", "pid": 4711, "pid_started": 99}
OTHER = {**RUN, "id": "run-2", "owner": "bob@ci", "pid": 4712}


def point_to(root: Path, name: str) -> None:
    (root / "current").unlink(missing_ok=True)
    (root / "current").symlink_to(f"generations/{name}")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a host on which g1 of release 1.0 is current, and g2 of release 2.0 is there."""
    root = tmp_path / "board"
    add_generation(root, "g1", "1.0")
    add_generation(root, "g2", "2.0")
    point_to(root, "g1")
    return root


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load_module("deploy_lock")


Call = Callable[..., dict[str, Any]]


@pytest.fixture
def call(module: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> Call:
    def run(run: dict[str, Any], *, check: bool = False, **arguments: Any) -> dict[str, Any]:
        kept = {"logs": str(root / "logs"), "keep": 2} if arguments["state"] == "ended" else {}
        return run_module(module, capsys, check=check, **{"root": str(root), **kept, "run": run, **arguments})

    return run


def lock_of(root: Path) -> Any:
    return json.loads((root / "deploy.json").read_text())


def records_of(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "deploys.jsonl").read_text().splitlines()]


def expire(root: Path) -> None:
    (root / "deploy.json").write_text(json.dumps({**lock_of(root), "expires": int(time.time()) - 1, "ends": 0}))


# ---- The lock ----


def test_a_deploy_begins_and_ends(root: Path, call: Call) -> None:
    begun = call(RUN, **BEGIN)
    assert begun["changed"]
    assert (begun["from"], begun["from_release"], begun["interrupted"]) == ("g1", "1.0", None)
    lock = lock_of(root)
    assert lock == {key: value for key, value in begun.items() if key in lock}
    assert set(lock) == {
        *RUN,
        "started",
        "expires",
        "boot",
        "up",
        "ends",
        "verb",
        "wanted",
        "release",
        "from",
        "from_release",
    }
    assert lock["expires"] - lock["started"] == 600
    assert stat.S_IMODE((root / "deploy.json").stat().st_mode) == 0o644
    assert stat.S_IMODE((root / ".deploy.lock").stat().st_mode) == 0o600
    point_to(root, "g2")
    assert call(RUN, state="ended")["changed"]
    assert not (root / "deploy.json").exists()
    (record,) = records_of(root)
    assert 0 <= record["seconds"] < 5
    assert 0 <= record["ended"] - record["started"] < 5
    said = {name: record[name] for name in ("owner", "verb", "wanted", "from", "from_release", "to", "to_release")}
    assert list(said.values()) == ["ada@desk", "deploy", "g2", "g1", "1.0", "g2", "2.0"]
    assert (record["outcome"], record["message"]) == ("succeeded", "")
    assert stat.S_IMODE((root / "deploys.jsonl").stat().st_mode) == 0o644


@pytest.mark.parametrize(("why", "stay"), [({}, {"g1", "g2"}), ({"message": "it failed"}, {"g0", "g1", "g2"})])
def test_the_end_of_a_deploy_that_succeeded_removes_what_nobody_goes_back_to(
    root: Path, call: Call, why: dict[str, str], stay: set[str]
) -> None:
    add_generation(root, "g0", "0.9")
    for number, name in enumerate(("g0", "g1", "g2")):
        os.utime(root / "generations" / name / "generation.json", (number, number))
    call(RUN, **BEGIN)
    point_to(root, "g2")
    assert call(RUN, state="ended", **why).get("removed", []) == (
        [] if why else [str(root / "releases" / "0.9"), str(root / "generations" / "g0")]
    )
    assert {place.name for place in (root / "generations").iterdir()} == stay


def test_files_have_their_modes_under_a_strict_umask(root: Path, call: Call) -> None:
    before = os.umask(0o077)
    try:
        call(RUN, **BEGIN)
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "deploy.json").stat().st_mode) == 0o644


def test_the_same_run_begins_again_and_keeps_what_it_goes_back_to(root: Path, call: Call) -> None:
    call(RUN, **BEGIN)
    expire(root)
    point_to(root, "g2")
    again = call(RUN, **BEGIN)
    assert not again["changed"]
    assert again["from"] == "g1"
    assert lock_of(root)["expires"] > time.time() + 500
    assert not (root / "deploys.jsonl").exists()


def test_another_run_is_refused_and_told_who_holds_the_host(root: Path, call: Call) -> None:
    call(RUN, **BEGIN)
    lock = lock_of(root)
    lock |= {"started": lock["started"] - 185, "up": lock["up"] - 185}
    (root / "deploy.json").write_text(json.dumps(lock))
    for check in (False, True):
        refused = call(OTHER, check=check, **{**BEGIN, "wanted": "g3", "release": "3.0"})
        assert refused["failed"]
        assert "ada@desk began the deploy of 2.0 here at 20" in refused["msg"]
        assert "Z (3 min ago) and holds this host until 20" in refused["msg"]
        assert refused["msg"].endswith(
            f"Z. Wait; or, if you know that it is dead, remove {root}/deploy.json on this host."
        )
        assert refused["lock"] == lock
    assert lock_of(root) == lock


@pytest.mark.parametrize("step", [-86400, 86400], ids=["back", "forward"])
def test_a_lock_holds_as_long_wherever_the_clock_is_set(root: Path, call: Call, step: int) -> None:
    """After a step of the clock, the lock's dates are as far from it in the other direction."""
    call(RUN, **BEGIN)
    lock = lock_of(root)
    (root / "deploy.json").write_text(
        json.dumps({**lock, "started": lock["started"] - step, "expires": lock["expires"] - step})
    )
    refused = call(OTHER, **BEGIN)
    assert refused["failed"]
    assert re.search(r"\(\d s ago\)", refused["msg"]), refused["msg"]
    until = re.search(r"holds this host until (\S+Z)\.", refused["msg"])
    assert until
    assert 500 < calendar.timegm(time.strptime(until[1], "%Y-%m-%dT%H:%M:%SZ")) - time.time() < 601
    call(RUN, state="ended", message="it failed")
    assert 0 <= records_of(root)[-1]["seconds"] < 60
    call(RUN, **BEGIN)
    expire(root)
    assert call(OTHER, **BEGIN)["changed"]


@pytest.mark.parametrize(("begun", "held"), [(-100, True), (-700, False), (86400, False)], ids=["now", "old", "later"])
def test_a_lock_of_before_a_boot_is_believed_if_its_dates_can_be(
    root: Path, call: Call, begun: int, held: bool
) -> None:
    call(RUN, **BEGIN)
    started = int(time.time()) + begun
    lock = {**lock_of(root), "boot": "another", "started": started, "expires": started + 600}
    (root / "deploy.json").write_text(json.dumps(lock))
    assert bool(call(OTHER, **BEGIN).get("failed")) == held


def test_what_became_current_last_stays_wherever_the_clock_was_set(root: Path) -> None:
    """Generations are pruned by their dates: that of the one that becomes current is later than every other."""
    layout = helper("layout").Layout(root)
    future = time.time() + 86400
    os.utime(root / "generations" / "g1" / "generation.json", (future, future))
    assert layout.next_date("g2") > future
    assert abs(layout.next_date("g1") - time.time()) < 60, "its own date is no other's"


def test_an_end_of_what_is_not_ours_changes_nothing(root: Path, call: Call) -> None:
    assert not call(RUN, state="ended", message="it failed")["changed"]
    call(RUN, **BEGIN)
    assert not call(OTHER, state="ended", message="it failed")["changed"]
    assert lock_of(root)["id"] == "run-1"
    assert not (root / "deploys.jsonl").exists()


@pytest.mark.parametrize("known_dead", [False, True], ids=["expired", "dead"])
def test_an_interrupted_deploy_is_taken_over_with_what_it_goes_back_to(
    root: Path, call: Call, known_dead: bool
) -> None:
    call(RUN, **BEGIN)
    point_to(root, "g2")  # it had come so far
    if not known_dead:
        expire(root)
    begun = call(OTHER | ({"dead": "run-1"} if known_dead else {}), **BEGIN)
    assert begun["changed"]
    assert (begun["from"], begun["from_release"]) == ("g1", "1.0")
    assert begun["interrupted"]["owner"] == "ada@desk"
    assert lock_of(root)["owner"] == "bob@ci"
    (record,) = records_of(root)
    assert (record["outcome"], record["owner"], record["to"]) == ("interrupted", "ada@desk", "g2")
    assert record["ended"] is record["seconds"] is None
    assert record["message"] == "taken over by bob@ci"
    assert not call(RUN, state="ended", message="it failed")["changed"], "the first one comes to life again"


def test_only_the_run_that_is_known_to_be_dead_loses_its_lock(root: Path, call: Call) -> None:
    call(RUN, **BEGIN)
    assert call({**OTHER, "id": "run-3", "dead": "run-2"}, **BEGIN)["failed"]
    assert lock_of(root)["id"] == "run-1"


def test_the_record_keeps_two_hundred_lines_and_the_first_of_a_message(root: Path, call: Call) -> None:
    root.joinpath("deploys.jsonl").write_text("".join(f"{json.dumps(line(number))}\n" for number in range(205)))
    call(RUN, **BEGIN)
    call(RUN, state="ended", message="\napp2 did not answer.\nA traceback\n")
    records = records_of(root)
    assert len(records) == 200
    assert records[0] == line(6)
    assert records[-1]["message"] == "app2 did not answer."


def test_a_host_on_which_nothing_runs_begins_from_nothing(root: Path, call: Call) -> None:
    (root / "current").unlink()
    begun = call(RUN, **BEGIN)
    assert begun["from"] is begun["from_release"] is None
    assert call(RUN, state="ended")["to"] is None


def test_check_mode_writes_nothing(root: Path, call: Call) -> None:
    before = sorted(root.iterdir())
    assert call(RUN, check=True, **BEGIN)["changed"]
    assert not call(RUN, check=True, state="ended")["changed"]
    assert sorted(root.iterdir()) == before
    call(OTHER, **BEGIN)
    expire(root)
    lock = lock_of(root)
    assert call(RUN, check=True, **BEGIN)["interrupted"] == lock
    assert lock_of(root) == lock
    assert not (root / "deploys.jsonl").exists()


def test_a_bare_host(root: Path, call: Call) -> None:
    nowhere = str(root / "nowhere")
    begun = call(RUN, check=True, root=nowhere, **BEGIN)
    assert begun["changed"]
    assert begun["from"] is None
    assert not call(RUN, root=nowhere, state="ended", message="it failed")["changed"]
    assert "nowhere is not there" in call(RUN, root=nowhere, **BEGIN)["msg"]


def test_a_lock_of_the_result_reads_in_a_template() -> None:
    assert evaluate("begun.from", begun={"from": "g1"}) == "g1"


def race(module: ModuleType, arguments: dict[str, Any], gate: Any, results: Any) -> None:
    """Begin when everybody does, in a process of its own."""
    said = io.StringIO()
    gate.wait()
    try:
        with contextlib.redirect_stdout(said), patch_module_args(arguments), contextlib.suppress(SystemExit):
            module.main()
    finally:
        results.put((arguments["run"]["id"], said.getvalue()))


@pytest.mark.parametrize("there", ["nothing", "an expired lock"])
def test_of_many_that_begin_at_once_one_wins(root: Path, module: ModuleType, call: Call, there: str) -> None:
    for _ in range(3):
        (root / "deploy.json").unlink(missing_ok=True)
        if there == "an expired lock":
            call(RUN, **BEGIN)
            expire(root)
        gate, results = FORK.Barrier(12), FORK.SimpleQueue()
        racers = [
            FORK.Process(
                target=race,
                args=(module, {**BEGIN, "root": str(root), "run": RUN | {"id": f"racer-{n}"}}, gate, results),
            )
            for n in range(12)
        ]
        for racer in racers:
            racer.start()
        told = {name: json.loads(said) for name, said in (results.get() for _ in racers)}
        for racer in racers:
            racer.join()
        winners = [name for name, result in told.items() if not result.get("failed")]
        assert len(winners) == 1, told
        assert lock_of(root)["id"] == winners[0]
        assert {result["lock"]["id"] for result in told.values() if result.get("failed")} == set(winners)
    if there == "an expired lock":
        assert [record["outcome"] for record in records_of(root)] == ["interrupted"] * 3


# ---- The controller: real runs of ansible-playbook ----


class Controller:
    """A playbook that begins twice on two hosts, does something, and ends."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.roots = [place / name / "board" for name in ("h1", "h2")]
        for root in self.roots:
            add_generation(root, "g1", "1.0")
            point_to(root, "g1")
        common = {"root": f"{place}/{{{{ inventory_hostname }}}}/board"}
        begin = {"eyewall.tornado.deploy_lock": {**common, **BEGIN}, "register": "begun"}
        end = {**common, "state": "ended", "logs": str(place / "logs"), "keep": 5}
        # waits for the file `go`, and for a minute at most
        wait = f"touch {place}/at-work; for i in $(seq 600); do [ -e {place}/go ] && exit 0; sleep 0.1; done; exit 1"
        tasks = [
            {**begin, "name": "Begin"},
            {"name": "Show", "ansible.builtin.debug": {"msg": "BEGUN {{ begun.id }} {{ begun.changed }}"}},
            {**begin, "name": "Begin again"},
            {"name": "Show again", "ansible.builtin.debug": {"msg": "BEGUN {{ begun.id }} {{ begun.changed }}"}},
            {"name": "Work", "ansible.builtin.shell": wait},
            {"name": "End", "eyewall.tornado.deploy_lock": end},
        ]
        play = {"name": "Deploy", "hosts": "all", "gather_facts": False, "tasks": tasks}
        (place / "play.yml").write_text(yaml.safe_dump([play]))
        (place / "ansible.cfg").touch()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "SUDO_"))},
            "ANSIBLE_CONFIG": str(place / "ansible.cfg"),
            "ANSIBLE_COLLECTIONS_PATH": str(REPOSITORY / "collections"),
            "ANSIBLE_LOCAL_TEMP": str(place / "tmp"),
            "ANSIBLE_REMOTE_TEMP": str(place / "remote"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "SUDO_USER": "ada",
        }
        self.running: list[subprocess.Popen[str]] = []

    def run(self) -> subprocess.Popen[str]:
        command = [str(Path(sys.executable).with_name("ansible-playbook")), "-c", "local", "-i", "h1,h2", "play.yml"]
        process = subprocess.Popen(
            command,
            cwd=self.place,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.running.append(process)
        return process

    def end(self) -> None:
        (self.place / "go").touch()  # workers of a killed run are still at it
        for process in self.running:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.communicate()


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Controller]:
    found = Controller(tmp_path)
    yield found
    found.end()


def begun_in(said: str) -> list[tuple[str, str]]:
    """Return id and `changed` of each beginning that a run printed."""
    words = [line.split("BEGUN ")[1].rstrip('"').split() for line in said.splitlines() if "BEGUN " in line]
    return [(word[0], word[1]) for word in words]


@pytest.mark.slow
def test_a_killed_run_is_succeeded_by_the_same_command_and_a_living_one_is_not(controller: Controller) -> None:
    first = controller.run()
    deadline = time.monotonic() + 30
    while not (controller.place / "at-work").exists():
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    held = lock_of(controller.roots[0])
    assert held["owner"] == f"ada@{os.uname().nodename}"
    assert held["pid"] == first.pid, "the lock names ansible-playbook, not one of its workers"

    said = controller.run().communicate(timeout=60)[0]
    assert "ada@" in said
    assert "holds this host until" in said
    assert lock_of(controller.roots[0]) == held

    first.kill()  # and not yet reaped: it stays as a zombie
    (controller.place / "go").touch()
    third = controller.run()
    said = third.communicate(timeout=60)[0]
    assert third.returncode == 0, said
    begun = begun_in(said)
    assert len(begun) == 4
    assert len({run for run, _ in begun}) == 1, "one run, one identity: in each task, on each host"
    assert sorted(changed for _, changed in begun) == ["False", "False", "True", "True"]
    for root in controller.roots:
        assert not (root / "deploy.json").exists()
        assert [record["outcome"] for record in records_of(root)] == ["interrupted", "succeeded"]
        assert len({record["id"] for record in records_of(root)}) == 2, "another run, another identity"


# ---- What app_info reads of it ----


def test_info_of_a_host(
    root: Path, call: Call, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = load_module("app_info")
    asked: list[str] = []
    lies: dict[str, Any] = {}

    def ask(path: str, what: str) -> dict[str, Any] | None:
        asked.append(Path(path).name)
        dead = "g0" in path or not Path(path).exists()
        return None if dead else {"state": "ready", "port": 8000, "generation": Path(path).name[:2]} | lies

    for name, value in (("ask", ask), ("strangers", lambda *_: []), ("states", lambda _: {})):
        monkeypatch.setattr(module, name, value)
    sockets = root.parent / "run"
    sockets.mkdir()

    def read() -> dict[str, Any]:
        return run_module(module, capsys, root=str(root), sockets=str(sockets), user="board")

    (silent,) = read()["processes"]
    assert silent == {"state": "silent", "port": 8000, "release": "1.0", "generation": "g1"}
    add_generation(root, "g0", "0.9")
    add_generation(root, "g3", "3.0", before="g1")
    for number in range(4):
        (sockets / f"g{number}-8000.sock").touch()
        os.utime(root / "generations" / f"g{number}" / "generation.json", (number * 10, number * 10))
    point_to(root, "g3")
    for number in range(7):
        call({**RUN, "id": f"run-{number}"}, **BEGIN)
        call({**RUN, "id": f"run-{number}"}, state="ended", keep=4)
    call(OTHER, **BEGIN)
    told = read()
    assert not told["changed"]
    lies["generation"] = "g7"
    assert [one["state"] for one in read()["processes"]] == ["silent"], "another's word is no answer"
    assert sorted(process["generation"] for process in told["processes"]) == ["g1", "g2", "g3"], "g0's socket is dead"
    assert [(one["name"], one["current"], one["before"], one["last_current"]) for one in told["generations"]] == [
        ("g3", True, False, 30),
        ("g2", False, False, 20),
        ("g1", False, True, 10),
        ("g0", False, False, None),
    ]
    assert [one["id"] for one in told["deploys"]] == [f"run-{number}" for number in range(2, 7)]
    assert told["lock"] == lock_of(root)


def test_processes_are_asked_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    module = load_module("app_info")
    both = threading.Barrier(2, timeout=20)

    def ask(path: str, what: str) -> dict[str, Any] | None:
        both.wait()
        return None

    monkeypatch.setattr(module, "ask", ask)
    known = [{"name": "g1", "release": "1.0", "ports": [8000, 8001], "current": True}]
    assert [one["state"] for one in module.processes(known, Path("/run"))] == ["silent", "silent"]


def test_info_of_a_bare_host(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    module = load_module("app_info")
    told = run_module(module, capsys, root=str(tmp_path / "no"), sockets=str(tmp_path / "no"), user="board")
    assert told == {**told, "processes": [], "strangers": [], "generations": [], "deploys": [], "lock": None}
