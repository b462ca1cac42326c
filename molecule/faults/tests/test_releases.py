"""A release that does not work, from one that does not import to one that dies at its work."""

import hashlib
import re
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import REPOSITORY


def written(file: str, old: str, new: str) -> Callable[[Path], None]:
    """A change of the application's source."""

    def change(source: Path) -> None:
        path = source / "src" / "testapp" / file
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")

    return change


@pytest.fixture(scope="module")
def mortal(fleet, names) -> dict[str, str]:
    """A release of which only the process on the second port dies, so that at every moment the other one answers."""
    change = written("application.py", 'if fault == "dies":', 'if fault == "dies" and os.environ["PORT"] == "8001":')
    return fleet.release(f"mortal.{names[0]}", change)


def test_release_that_does_not_import_touches_no_host(fleet, before, fresh, watched, refused):
    """The controller finds out."""
    change = written("__init__.py", "import os", "import os, no_such_module")
    with watched() as watch:
        run = fleet.deploy(f"broken.{fresh}", change=change)
        watch.only(before["app1"].release)
    refused(
        run,
        "tornado_app_factory is 'testapp:make_app', and importing it on the controller failed:",
        "No module named 'no_such_module'",
        recorded=False,
    )
    assert "Lock the first host" not in run.output


def test_release_that_imports_on_the_controller_alone_is_found_while_staging(fleet, before, fresh, watched, refused):
    host_only = 'import os\n\nif os.path.exists("/opt/testapp"):\n    raise OSError("no /usr/lib/libtestapp.so")\n'
    name = f"elsewhere.{fresh}"
    with watched() as watch:
        run = fleet.deploy(name, change=written("__init__.py", "import os\n", host_only))
        watch.only(before["app1"].release)
    refused(
        run,
        f"testapp {name} was not deployed: app1, app2 failed while the release was installed and smoke-tested.",
        "tornado_app_factory is 'testapp:make_app', and importing it on this host failed:",
        "OSError: no /usr/lib/libtestapp.so",
        "app1, app2: never left",
    )
    for host in fleet.hosts:
        assert not fleet.host(host).file(f"/opt/testapp/releases/{name}").exists


def names_in(tar: Path) -> list[str]:
    with tarfile.open(tar) as archive:
        return archive.getnames()


def test_wheel_that_the_wheelhouse_lacks_is_found_while_staging(fleet, before, fresh, watched, refused):
    """The controller's copy was damaged after it had been checked there."""

    def change(source: Path) -> None:
        # more to install: what the reference application has beside what is there
        lock = (REPOSITORY / "app" / "requirements.lock").read_text(encoding="utf-8")
        more = re.findall(r"^(?:argon2|cffi|pycparser)\S*==(?:.*\\\n)+.*\n", lock, flags=re.M)
        # and a hash that no file has, so that no earlier run of these tests has made these wheels' tar
        unique = hashlib.sha256(fresh.encode()).hexdigest()
        more[0] = more[0].replace("--hash=", f"--hash=sha256:{unique} \\\n    --hash=", 1)
        with (source / "requirements.lock").open("a", encoding="utf-8") as file:
            file.writelines(more)

    variables = fleet.release(f"damaged.{fresh}", change)
    began = time.time()
    assert fleet.play("deploy", "--check", **variables).status == 0
    # another scenario may have made one at the same time
    made = [path for path in (REPOSITORY / ".build" / "wheelhouses").glob("*.tar") if path.stat().st_mtime >= began]
    (sent,) = [path for path in made if any("/argon2_cffi-" in name for name in names_in(path))]
    whole = sent.with_name("whole")
    sent.rename(whole)
    with tarfile.open(whole) as old, tarfile.open(sent, "w") as new:
        for member in old:
            if not member.name.startswith("wheels/argon2_cffi-"):
                new.addfile(member, old.extractfile(member))
    try:
        with watched() as watch:
            run = fleet.play("deploy", **variables)
            watch.only(before["app1"].release)
    finally:
        for file in (sent, whole):
            file.unlink()
    refused(
        run,
        "app1, app2 failed while the release was installed and smoke-tested",
        "the wheelhouse has no wheel of 'argon2-cffi==",
    )


def test_health_path_that_answers_500_is_found_off_the_air(fleet, before, candidate, watched, refused):
    with watched() as watch:
        run = fleet.play("deploy", **candidate, tornado_app_settings={"TESTAPP_FAULT": "health"})
        watch.only(before["app1"].release)
    refused(
        run,
        "app1, app2 failed while the release was installed and smoke-tested",
        "GET /health was answered with 500; expected 200 to 299. The last lines of its log:",
        r" TESTAPP_FAULT is 'health'\x00 ",
        "app1, app2: never left",
    )
    assert "\x1b]0;testapp" not in run.output


def test_task_of_the_sites_own_that_fails_is_named_and_what_it_hides_is_hidden(
    fleet, before, candidate, watched, refused, tmp_path
):
    """Whatever a task with no_log says is in no summary, no record and no journal."""
    hook = "- name: Warm the cache\n  ansible.builtin.command: sh -c 'echo hunter2-of-the-hook >&2; exit 3'\n"
    (tmp_path / "before.yml").write_text(f"{hook}  changed_when: true\n  no_log: true\n")
    with watched() as watch:
        run = fleet.play("deploy", **candidate, tornado_app_before_tasks=str(tmp_path / "before.yml"))
        watch.only(before["app1"].release)
    refused(
        run,
        "app1, app2 failed while the task 'Warm the cache' ran",
        "What it says is hidden: it has no_log.",
        "app1, app2: never left",
    )
    assert "hunter2" not in run.output
    for host in fleet.hosts:
        assert "hunter2" not in fleet.sh(host, "cat /opt/testapp/deploys.jsonl; journalctl --no-pager")


def test_process_that_never_gets_ready_is_found_off_the_air(fleet, before, candidate, watched, refused):
    with watched() as watch:
        run = fleet.play(
            "deploy", **candidate, tornado_app_settings={"TESTAPP_FAULT": "start"}, tornado_app_start_timeout=4
        )
        watch.only(before["app1"].release)
    refused(run, "-proof:8000 was not ready within 4 s (supervisord: RUNNING)", "app1, app2: never left")


def test_process_that_never_gets_ready_on_its_port_gives_it_back(fleet, before, mortal, watched, refused):
    """Out of rotation the same program answers: the process of the second port is never tried there."""
    old, new = before["app1"].release, mortal["tornado_app_version"]
    with watched() as watch:
        run = fleet.play("deploy", **mortal, tornado_app_settings={"TESTAPP_FAULT": "dies", "TESTAPP_FAULT_AFTER": "0"})
        watch.only(old)
    refused(
        run,
        f"testapp {new} was not deployed: app1 failed while processes changed hands.",
        ":8001 ended (supervisord: ",
        f"app1: back on {old} app2: never left {old}",
        same_processes=False,
    )


@pytest.mark.parametrize("host", ["app1", "app2"])
def test_process_that_dies_takes_every_host_back(fleet, before, mortal, watched, refused, host):
    """Out of rotation it lives. On the second host alone: the first one had changed, and goes back."""
    fault = f"{{{{ 'dies' if inventory_hostname == '{host}' else '' }}}}"
    settings = {"TESTAPP_FAULT": fault, "TESTAPP_FAULT_AFTER": "3"}
    began = time.time()
    with watched() as watch:
        run = fleet.play("deploy", **mortal, tornado_app_settings=settings, tornado_app_min_ready_seconds=4)
        watch.only(before["app1"].release)
        deaths = fleet.deaths(host, began)
        watch.spare_inside(host, deaths)
    assert deaths
    old, new = before["app1"].release, mortal["tornado_app_version"]
    refused(
        run,
        f"testapp {new} was not deployed: {host} failed while processes changed hands.",
        ":8001 was ready, and ended",
        "The last lines of its log:",
        f"app1, app2: back on {old}" if host == "app2" else f"app1: back on {old} app2: never left {old}",
        same_processes=False,
    )


def test_a_good_release_follows(fleet, candidate, watched, changed):
    """What the failed ones left is in nobody's way."""
    with watched():
        run = fleet.play("deploy", **candidate)
    changed(run, candidate)
