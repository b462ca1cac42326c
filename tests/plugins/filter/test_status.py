"""What hosts said, as text for a person: tables, why a deploy failed, and what each host runs now."""

from collections.abc import Iterator
from typing import Any

import pytest
from support.product import ROLES, load_yaml, plugin

status = plugin("filter", "status")


def registered(tasks: list[dict[str, Any]]) -> Iterator[str]:
    """Yield what the tasks of a file register, those of its blocks too."""
    for task in tasks:
        if "register" in task:
            yield task["register"]
        yield from registered([one for part in ("block", "rescue", "always") for one in task.get(part, [])])


def test_each_step_of_a_deploy_is_told_by_the_name_that_it_registers() -> None:
    """A step that registers another name, or a new one, would be left out of a summary, and nobody would know."""
    files = [ROLES / "tornado_app" / "tasks" / f"{name}.yml" for name in ("rolling_update", "handover")]
    names = {name for file in files for name in registered(load_yaml(file))}
    # that it succeeded, and what it went back to, are no steps of it
    assert names == {*status.STEPS, "__tornado_app_reported", "__tornado_app_back"}
    assert names <= {*load_yaml(ROLES / "tornado_app" / "vars" / "main.yml")}, (
        "and starts as nothing for each application"
    )


def info(**more: Any) -> dict[str, Any]:
    return {"site_infos": {"board": {"processes": [], "deploys": [], "lock": None, **more}}}


def record(**more: Any) -> dict[str, Any]:
    return {
        "id": "run-1", "started": 1767225600, "ended": 1767225663, "seconds": 63, "owner": "ada@desk", "verb": "deploy",
        "wanted": "g2", "release": "2.0", "from": "g1", "from_release": "1.0", "to": "g2", "to_release": "2.0",
        "outcome": "succeeded", "message": "", **more,
    }  # fmt: skip


def test_deploys_of_a_fleet_are_a_line_each() -> None:
    failed = {"id": "run-2", "started": 1767312000, "seconds": 9, "release": "3.0", "to": "g2", "to_release": "2.0"}
    cut = {"outcome": "interrupted", "seconds": None, "message": "taken over by bob@ci"}
    lock = {"owner": "bob@ci", "verb": "rollback", "release": "1.0", "expires": 1767312600}
    hosts = {
        "app1": info(deploys=[record(), record(**failed, outcome="failed", message="app2 did not answer")], lock=lock),
        "app2": info(deploys=[record(started=1767225599, seconds=65), record(**{**failed, **cut})]),
        "app3": info(deploys=[record(from_release=None, **{"from": None})], lock=lock),
    }
    assert status.deploy_table(list(hosts), hosts).splitlines() == [
        "when (UTC)           hosts       who       verb    release  from  to   outcome      seconds  why",
        "2025-12-31 23:59:59  app1, app2  ada@desk  deploy  2.0      1.0   2.0  succeeded    65",
        "2026-01-01 00:00:00  app3        ada@desk  deploy  2.0      -     2.0  succeeded    63",
        "2026-01-02 00:00:00  app1        ada@desk  deploy  3.0      1.0   2.0  failed       9        app2 did not answer",
        "2026-01-02 00:00:00  app2        ada@desk  deploy  3.0      1.0   2.0  interrupted  -        taken over by bob@ci",
        "app1, app3: held by bob@ci for the rollback of 1.0, until 2026-01-02 00:10:00 UTC",
    ]
    assert status.deploy_table(["app1"], {"app1": info()}) == ""


def test_processes_are_a_line_each() -> None:
    processes = [
        {"port": 8000, "state": "ready", "release": "2.0", "pid": 7, "uptime_seconds": 3725.2, "connections": 1,
         "requests": 5, "open_files": 15, "open_files_limit": 50000},
        {"port": 8001, "state": "silent", "release": "2.0"},
        {"port": [], "state": None, "release": {}, "pid": "7", "uptime_seconds": "x", "open_files": float("nan")},
        {"uptime_seconds": float("inf"), "connections": True},
    ]  # fmt: skip
    assert status.process_table(["app1"], {"app1": info(processes=processes)}).splitlines() == [
        "host  port  state   release  pid  uptime  connections  requests  open files / limit",
        "app1  8000  ready   2.0      7    1h 2m   1            5         15 / 50000",
        "app1  8001  silent  2.0      -    -       -            -         -",
        "app1  []    None    {}       7    -       -            -         nan",
        "app1  -     -       -        -    -       True         -         -",
    ]


def host(**steps: Any) -> dict[str, Any]:
    """Return the variables of a host on which a deploy of 1.4.2 over 1.4.1 began and what else is given took place."""
    begun = {"changed": True, "verb": "deploy", "release": "1.4.2", "from": "g1", "from_release": "1.4.1"}
    plan = {"verb": "deploy", "release": "1.4.2"}
    return {"tornado_app_name": "board", "tornado_app_plan": plan} | {
        f"__tornado_app_{name}": step for name, step in {"staged": {**DONE, "begun": begun}, **steps}.items()
    }


SKIPPED = {"changed": False, "skipped": True}
DONE = {"changed": True}
SAME = {"changed": False}
FAILED = {"changed": False, "failed": True, "msg": "g2:8000 was not ready.\nThe last lines of its log:\nboom"}
UNREACHABLE = {"changed": False, "unreachable": True, "msg": "No route to host"}


def test_a_failed_deploy_says_what_failed_and_what_runs_where() -> None:
    hosts = {
        "app1": host(move=DONE, back=DONE),
        "app2": host(move=FAILED, back=UNREACHABLE),
        "app3": host(move=DONE, back=DONE),
        "app4": host(move=SKIPPED),
        "app5": host(back=SAME),
    }
    assert status.deploy_summary(list(hosts), hosts) == (
        "board 1.4.2 was not deployed: app2 failed while processes changed hands.\n"
        "  app2:\n"
        "    g2:8000 was not ready.\n"
        "    The last lines of its log:\n"
        "    boom\n"
        "Now:\n"
        "  app1, app3: back on 1.4.1\n"
        "  app2: did not answer; it starts 1.4.1 at boot\n"
        "  app4, app5: never left 1.4.1"
    )


FIRST = {**DONE, "begun": {"changed": True, "verb": "deploy", "release": "1.4.2", "from": None, "from_release": None}}
REFUSED = {"changed": False, "failed": True, "msg": "bob@ci holds this host.", "lock": {"id": "run-2"}}


@pytest.mark.parametrize(
    ("steps", "runs"),
    [
        ({}, "never left 1.4.1"),
        ({"move": SAME, "back": SAME}, "never left 1.4.1"),
        ({"begun": UNREACHABLE, "staged": {}}, "was not touched"),
        ({"begun": REFUSED, "staged": {}}, "was not touched"),
        ({"staged": REFUSED}, "was not touched"),
        ({"staged": UNREACHABLE}, "did not answer; what runs was not touched"),
        ({"staged": SKIPPED, "tested": UNREACHABLE}, "did not answer; what runs was not touched"),
        ({"staged": FIRST}, "nothing runs there yet"),
        ({"staged": FIRST, "move": DONE, "back": SKIPPED}, "nothing to go back to"),
        ({"staged": FIRST, "move": FAILED}, "nothing to go back to"),
        ({"move": FAILED}, "back on 1.4.1"),
        ({"move": FAILED, "back": SAME}, "back on 1.4.1"),
        ({"move": DONE}, "runs 1.4.2"),
        ({"move": DONE, "back": UNREACHABLE}, "did not answer; it starts 1.4.2 at boot"),
        ({"move": UNREACHABLE}, "did not answer; it starts 1.4.1, or 1.4.2 if its move has ended, at boot"),
        ({"back": UNREACHABLE}, "did not answer; it starts 1.4.1 at boot"),
        (
            {"move": DONE, "back": {"failed": True, "msg": "no memory"}},
            "could not go back to 1.4.1; it starts 1.4.2 at boot: no memory",
        ),
    ],
)
def test_what_a_host_runs_after_a_failure(steps: dict[str, Any], runs: str) -> None:
    assert status.deploy_summary(["app1"], {"app1": host(**steps)}).splitlines()[-1] == f"  app1: {runs}"


def first_line(**hosts: dict[str, Any]) -> str:
    return str(status.deploy_summary(list(hosts), hosts).splitlines()[0])


def test_the_first_line_of_a_failure() -> None:
    assert first_line(app1=host(staged=UNREACHABLE), app2=host(tested=FAILED), app3=host(tested=FAILED)) == (
        "board 1.4.2 was not deployed: app1 could not be reached while the release was installed and smoke-tested; "
        "app2, app3 failed while the smoke test ran."
    )
    # run_once: the first host's result is registered on every host
    migrated = host(migrated=FAILED)
    assert first_line(app1=migrated, app2=migrated) == (
        "board 1.4.2 was not deployed: app1 failed while the migration ran."
    )
    back = host(staged=SKIPPED, tested=REFUSED) | {"tornado_app_plan": {"verb": "rollback", "release": "1.4.1"}}
    assert first_line(app1=back) == "board was not rolled back to 1.4.1: app1 failed while the deploy was to begin."
    own = {"ansible_failed_task": {"name": "warm | Fill the cache"}, "ansible_failed_result": {"msg": "cold"}}
    assert first_line(app1={**host(move=DONE), **own}) == (
        "board 1.4.2 was not deployed: app1 failed while the task 'warm | Fill the cache' ran."
    )
    assert first_line(app1=host(begun=UNREACHABLE)).startswith(
        "board 1.4.2 was not deployed: app1 could not be reached"
    )


SAYS = {"msg": "non-zero return code", "stderr": "uses hunter2"}
HIDDEN = "What it says is hidden: it has no_log."


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (SAYS, "non-zero return code\nuses hunter2"),
        ({"msg": "cold", "stdout": "asked the cache"}, "cold\nasked the cache"),
        ({"msg": "One or more items failed", "results": [DONE, FAILED]}, FAILED["msg"]),
        ({**SAYS, "_ansible_no_log": True}, HIDDEN),
        ({"results": [{**SAYS, "failed": True, "_ansible_no_log": True}], "_ansible_no_log": True}, HIDDEN),
    ],
)
def test_what_a_task_of_the_site_says_unless_it_is_hidden(result: dict[str, Any], said: str) -> None:
    own = {"ansible_failed_task": {"name": "warm"}, "ansible_failed_result": {**result, "failed": True}}
    text = status.deploy_summary(["app1"], {"app1": host(move=DONE) | own})
    assert text == (
        "board 1.4.2 was not deployed: app1 failed while the task 'warm' ran.\n  app1:\n"
        + status.indented(said, 4)
        + "\nNow:\n  app1: runs 1.4.2"
    )


def test_a_whole_play_that_is_hidden() -> None:
    """What a task registers does not say that it is to be hidden."""
    own = {"ansible_failed_task": {}, "ansible_failed_result": {**FAILED, "_ansible_no_log": True}}
    text = status.deploy_summary(["app1"], {"app1": host(move=FAILED, back=FAILED) | own})
    assert "boom" not in text
    assert f"  app1:\n    {HIDDEN}\n" in text


def test_a_way_back_that_failed_is_not_why_the_deploy_failed() -> None:
    own = {"ansible_failed_task": {"name": "rolling_update | Roll back"}, "ansible_failed_result": FAILED}
    told = {"app1": host(move=DONE, back=FAILED) | own, "app2": host(move=FAILED)}
    text = status.deploy_summary(list(told), told)
    assert text.startswith("board 1.4.2 was not deployed: app2 failed while processes changed hands.\n  app2:\n")
    assert "  app1: could not go back to 1.4.1; it starts 1.4.2 at boot: g2:8000 was not ready." in text


def moved(*times: tuple[float, float | None]) -> dict[str, Any]:
    processes = [
        {"process": f"g2:{port}", "ready_seconds": ready} | ({} if drained is None else {"drained_seconds": drained})
        for port, (ready, drained) in enumerate(times, 8000)
    ]
    return {"changed": True, "generation": "g2", "processes": processes, "ended": [], "strangers": []}


def test_a_deploy_that_succeeded_says_what_is_where() -> None:
    stayed = {"changed": False, "processes": []}
    hosts = {
        "app1": host(move=moved((0.91, 0.3), (1.3, 0.1))),
        "app2": host(move=moved((1.0, 1.04), (1.1, 0.3))),
        "app3": host(move=stayed),
    }
    assert status.deploy_report(list(hosts), hosts) == (
        "board 1.4.2 is on app1, app2 (from 1.4.1), app3 (where it was): 4 processes, each ready in 0.9 to 1.3 s, "
        "the old ones drained in 0.1 to 1.0 s."
    )
    assert status.deploy_report(["app1"], {"app1": host(staged=FIRST, move=moved((1.0, None)))}) == (
        "board 1.4.2 is on app1 (the first release there): 1 process, each ready in 1.0 s."
    )
    settings = {**DONE, "begun": {"from": "g0", "from_release": "1.4.2"}}
    assert status.deploy_report(["app1"], {"app1": host(staged=settings, move=moved())}) == (
        "board 1.4.2 is on app1 (from other settings)."
    )
    assert status.deploy_report(["app3"], hosts) == "board 1.4.2 is on app3 (where it was)."


def test_what_was_there_beside_the_processes_is_said() -> None:
    daemon, login = "17 of board ('./daemon', since 2026-11-22T18:04:02Z)", "18 of board ('bash', since …)"
    hosts = {name: host(move={**moved(), "ended": [daemon]}) for name in ("app1", "app2")}
    hosts["app2"]["__tornado_app_move"]["strangers"] = [login]
    assert status.deploy_report(list(hosts), hosts).splitlines()[1:] == [
        f"  app1, app2: what a release had left was ended: {daemon}",
        f"  app2: a stranger runs there, which was not started by supervisord: {login}",
    ]


def test_strangers_of_hosts() -> None:
    assert status.stranger_table(["app1"], {"app1": info(strangers=[])}) == ""
    one = {
        "pid": 17,
        "started": 5,
        "account": "board",
        "command": "./daemon",
        "ports": [8000],
        "since": "2026-11-22T18:04:02Z",
    }
    found = [
        one | {"kind": "left", "of": ""},
        one | {"kind": "detached", "of": "g2:8000", "ports": []},
        one | {"kind": "foreign", "of": "", "pid": None},
    ]
    hosts = {"app1": info(strangers=found), "app2": info(strangers=None)}
    _, left, detached, foreign, silent = status.stranger_table(list(hosts), hosts).splitlines()
    assert " ".join(left.split()) == (
        "app1 17 board 2026-11-22 18:04:02 8000 left by a release (the next deploy ends it) ./daemon"
    )
    assert "  detached, as it says, from g2:8000  " in detached
    assert foreign.startswith("app1  unknown  board    -")
    assert "  not started by supervisord (no deploy while it is there)  " in foreign
    assert silent == "app2: supervisord does not answer, so who else is there is not known"
