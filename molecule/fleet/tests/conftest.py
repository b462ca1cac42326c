"""The fleet of this scenario, and what is done with it: one step after the other, each once for all tests.

A fixture is a step. It begins where the step that it names ends, and keeps what was there before and after, what the
playbook said, and what became of the traffic, for a deploy takes half a minute. `molecule converge` comes first.
"""

import json
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import websocket
from proof import Traffic
from support.fleet import Fleet, Run
from support.fleet_steps import Middle, Step, assets, get, look
from support.waiting import until

RATE = 60.0  # quick requests per second through all doors: the machine has to deploy, too
PAUSE = 1.0  # traffic before and after
# What holds the second host has this long to do it, while the first one's new processes are watched.
HOLD = {"tornado_app_min_ready_seconds": 8}

FIRST_SECRET = "first-secret-of-the-testapp"
SECOND_SECRET = "second-secret-of-the-testapp"

# Tasks of the site's own: when they ran on a host, and what was current there.
NOTE = """
- name: Note what is current
  ansible.builtin.shell: echo {moment} $(date +%s.%N) $(basename $(readlink /opt/testapp/current)) >>/root/hooks
  changed_when: false # it only notes what there is
"""
# When, who, and with which environment.
MIGRATE = 'echo "$(date +%s.%N) $(id -un) $RELEASE $TESTAPP_COLOUR $TESTAPP_SECRET" >>migrated; echo "secret: $TESTAPP_SECRET"'


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet("fleet", tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session")
def began(fleet: Fleet) -> dict[str, str]:
    """The release that was there before any step, by host."""
    return fleet.releases()


# Code of a release that writes down where it stands and as whom it runs, on hosts alone.
SPY = "import os; os.path.isdir('/var/lib/testapp') and open('/var/lib/testapp/ran', 'a').write(f'{os.getuid()} PLACE\\n')\n"


def spy(source: Path) -> None:
    """Let a release have such code where it is imported, and where Python executes it before anything else (site)."""
    package = source / "src" / "testapp" / "__init__.py"
    package.write_text(package.read_text(encoding="utf-8") + SPY.replace("PLACE", "import"), encoding="utf-8")
    (source / "purelib").mkdir()
    (source / "purelib" / "spy.pth").write_text(SPY.replace("PLACE", "pth"), encoding="utf-8")
    with (source / "pyproject.toml").open("a", encoding="utf-8") as project:
        project.write('\n[tool.uv.build-backend.data]\npurelib = "purelib"\n')


@pytest.fixture(scope="session")
def new(fleet: Fleet) -> dict[str, str]:
    """A release that says for whom it answers, too, and writes down as whom its code runs."""

    def change(source: Path) -> None:
        spy(source)
        program = source / "src" / "testapp" / "application.py"
        text = program.read_text(encoding="utf-8")
        says = '"pid": str(os.getpid()),'
        assert says in text
        more = '"client": self.request.remote_ip or "", "scheme": self.request.protocol,'
        program.write_text(text.replace(says, f"{says} {more}"), encoding="utf-8")

    # a name that no earlier run of these tests left on the hosts
    return fleet.release(f"2.{time.time():.0f}", change)


@pytest.fixture(scope="session")
def hooks(fleet: Fleet) -> dict[str, Any]:
    """Variables for tasks of the site's own, and a migration."""
    for host in fleet.hosts:
        fleet.sh(host, "rm -f /root/hooks /var/lib/testapp/migrated")
    files = {}
    for moment in ("before", "after"):
        file = fleet.scratch / f"{moment}.yml"
        file.write_text(f"---{NOTE.format(moment=moment)}", encoding="utf-8")
        files[f"tornado_app_{moment}_tasks"] = str(file)
    return {**files, "tornado_app_migrate": ["sh", "-c", MIGRATE]}


@contextmanager
def held(fleet: Fleet, host: str) -> Iterator[None]:
    """Let no module change the application on a host: each waits for this lock (module_utils/root.py)."""
    words = ["podman", "exec", "--interactive", fleet.container(host), "flock", "/opt/testapp/.lock"]
    words += ["sh", "-c", "echo held; read -r line"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        try:
            yield
        finally:
            holder.stdin.close()


def seen_in_the_middle(fleet: Fleet, pid: int, wanted: dict[str, Any]) -> Middle:
    """Stop a deploy when the first host has changed, look around, and let it go on.

    The second host is held from when the first one has its turn, and the smoke tests of both are over.
    """
    release = wanted["tornado_app_version"]
    first, second = fleet.hosts

    def ours() -> list[bool]:
        return [f"-{release}-" in name for name in fleet.processes(first) if "-proof:" not in name]

    until(lambda: True in ours(), "the first host's turn", 120)
    with held(fleet, second):
        until(lambda: ours() == [True, True], "the first host", 60)
        os.kill(pid, signal.SIGSTOP)
        try:
            return look_around(fleet, first, wanted)
        finally:
            os.kill(pid, signal.SIGCONT)


def look_around(fleet: Fleet, first: str, wanted: dict[str, Any]) -> Middle:
    """Look at what is there while one host has changed and the other has not."""
    release = wanted["tornado_app_version"]
    until(lambda: get(fleet, first, "/echo").json()["release"] == release, "the new release")
    pages = {host: get(fleet, host, "/").body.decode() for host in fleet.hosts}
    return Middle(
        looks=look(fleet),
        pages=pages,
        assets=assets(fleet, pages),
        unpublished={door: get(fleet, door, f"/static/testapp.js?v={'0' * 128}") for door in fleet.doors},
        second=fleet.play("deploy", **{**wanted, "tornado_app_settings": {"TESTAPP_COLOUR": "another"}}),
        lock=json.loads(fleet.sh(first, "cat /opt/testapp/deploy.json")),
    )


@pytest.fixture(scope="session")
def live(fleet: Fleet) -> Iterator[websocket.WebSocket]:
    """A WebSocket that is open from before the first step, and reads nothing meanwhile."""
    connection = websocket.create_connection(f"{fleet.doors['app2'].replace('http', 'ws', 1)}/live", timeout=5)
    yield connection
    connection.shutdown()


@pytest.fixture(scope="session")
def deploy(
    fleet: Fleet, began: dict[str, str], new: dict[str, str], hooks: dict[str, Any], live: websocket.WebSocket
) -> tuple[Step, Middle]:
    """A new release with a setting and a secret, and what was there in the middle of it."""
    wanted = {
        **new,
        "tornado_app_settings": {"TESTAPP_COLOUR": "red"},
        "tornado_app_secrets": {"TESTAPP_SECRET": FIRST_SECRET},
    }
    before = look(fleet)
    with Traffic(fleet.doors, RATE) as traffic:
        time.sleep(PAUSE)
        with traffic.during("deploy"), fleet.start("deploy", **wanted, **hooks, **HOLD) as process:
            middle = seen_in_the_middle(fleet, process.pid, wanted)
            output, _ = process.communicate(timeout=300)
        time.sleep(PAUSE)
    return Step(wanted, before, Run(process.returncode, output), traffic.report, look(fleet)), middle


@pytest.fixture(scope="session")
def deployed(deploy: tuple[Step, Middle]) -> Step:
    return deploy[0]


@pytest.fixture(scope="session")
def middle(deploy: tuple[Step, Middle]) -> Middle:
    return deploy[1]


@pytest.fixture(scope="session")
def status(fleet: Fleet, deployed: Step) -> Run:
    return fleet.play("status")


def play(fleet: Fleet, wanted: dict[str, Any], playbook: str, *arguments: str, **variables: Any) -> Step:
    """Run a playbook under traffic."""
    before = look(fleet)
    with Traffic(fleet.doors, RATE) as traffic:
        time.sleep(PAUSE)
        with traffic.during(playbook):
            run = fleet.play(playbook, *arguments, **variables)
        time.sleep(PAUSE)
    return Step(wanted, before, run, traffic.report, look(fleet))


@pytest.fixture(scope="session")
def repeated(fleet: Fleet, deployed: Step, status: Run, hooks: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
    """The same command again, and what there is after it."""
    return fleet.play("deploy", **deployed.wanted, **hooks), look(fleet)


@pytest.fixture(scope="session")
def rolled_back(fleet: Fleet, deployed: Step, repeated: tuple[Run, dict[str, Any]]) -> Step:
    """The release before, where neither its source nor an index of packages can be had."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
            patch.setenv(name, "http://127.0.0.1:9/")  # where nothing listens
        return play(fleet, {}, "rollback", tornado_app_source="/nonexistent")


@pytest.fixture(scope="session")
def assets_after_rollback(fleet: Fleet, rolled_back: Step, middle: Middle) -> list[Any]:
    """What the pages of both releases name, after the way back."""
    return assets(fleet, middle.pages)


@pytest.fixture(scope="session")
def not_there(fleet: Fleet, rolled_back: Step) -> Run:
    """A rollback to a release that no host has."""
    return fleet.play("rollback", tornado_app_version="9.9.9")


@pytest.fixture(scope="session")
def at_the_oldest(fleet: Fleet, not_there: Run, assets_after_rollback: list[Any]) -> Run:
    """A rollback where there is nothing to go back to: the first one, on hosts that were made for these tests."""
    for _ in range(10):  # more than a host keeps
        run = fleet.play("rollback")
        if run.status:
            break
    return run


@pytest.fixture(scope="session")
def raced(fleet: Fleet, deployed: Step, at_the_oldest: Run) -> tuple[list[Run], dict[str, Any]]:
    """Two rollbacks to the release of the first step, by its name, started at the same moment; the winner first."""
    version = deployed.wanted["tornado_app_version"]
    processes = [fleet.start("rollback", tornado_app_version=version) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    runs = [Run(process.returncode, output) for process, output in zip(processes, outputs, strict=True)]
    return sorted(runs, key=lambda run: run.status), look(fleet)


@pytest.fixture(scope="session")
def rotated(fleet: Fleet, deployed: Step, middle: Middle, raced: object) -> Step:
    """Another secret and a process more, on hosts that somebody's deploy never gave back. Ansible tells all it knows."""
    there = look(fleet)
    for host in fleet.hosts:
        abandoned = {
            **middle.lock,
            **{"id": str(uuid.uuid4()), "controller": str(uuid.uuid4()), "owner": "somebody@elsewhere"},
            **{
                "expires": int(time.time()) - 1,
                "ends": 0,
                "from": there[host].generation,
                "from_release": there[host].release,
            },
        }
        fleet.sh(host, "echo %s >/opt/testapp/deploy.json", json.dumps(abandoned))
    wanted = {
        **deployed.wanted,
        "tornado_app_secrets": {"TESTAPP_SECRET": SECOND_SECRET},
        "tornado_app_processes": 3,
    }
    return play(
        fleet,
        wanted,
        "deploy",
        "--diff",
        "-vvv",
        **wanted,
        tornado_app_parallel_processes=2,
        tornado_app_serial=["100%"],
    )


@pytest.fixture(scope="session")
def fewer(fleet: Fleet, rotated: Step) -> Step:
    """Two processes again, and another setting."""
    wanted = {**rotated.wanted, "tornado_app_processes": 2, "tornado_app_settings": {"TESTAPP_COLOUR": "blue"}}
    return play(fleet, wanted, "deploy", **wanted, tornado_app_parallel_processes=2)


@pytest.fixture(scope="session")
def unmigrated(fleet: Fleet, fewer: Step) -> Step:
    """A deploy whose migration fails."""
    command = 'for n in $(seq 30); do echo "line $n of the migration"; done; echo "secret: $TESTAPP_SECRET"; exit 3'
    wanted = {**fewer.wanted, "tornado_app_settings": {"TESTAPP_COLOUR": "green"}}
    return play(fleet, fewer.wanted, "deploy", **wanted, tornado_app_migrate=["sh", "-c", command])


@pytest.fixture(scope="session")
def settled(unmigrated: Step) -> Step:
    """The last step that changes the application: what is asked of a fleet at rest is asked after it."""
    return unmigrated
