"""Runs of ansible-playbook that meet each other, that are killed, or that find no room."""

import contextlib
import os
import re
import signal
import subprocess
import time

from support.fleet import Run

STAGING = r"^TASK \[.*rolling_update \| Lock the host, install the release"
HANDOVER = r"^TASK \[.*handover \| Replace the processes"
FIRST_HOST = r"^(ok|changed): \[app1\]"

# How far a run gets before it is killed: lines of its output, one after the other, and seconds from the last one on.
MOMENTS: dict[str, tuple[list[str], float]] = {
    "installing": ([STAGING], 0.9),
    # the run before has installed it, or does so still
    "in the smoke test": ([STAGING], 1.2),
    "in the first host's handover": ([HANDOVER], 1.5),
    "between the hosts": ([HANDOVER, FIRST_HOST], 0.0),
    # what runs on a host goes on by itself: where the run before has begun it, this one may end before it is killed
    "in the second host's handover": ([HANDOVER, FIRST_HOST, HANDOVER], 1.5),
    "before the end": ([r"^TASK \[.*rolling_update \| Check that every process"], 0.2),
    "at the end": ([r"^TASK \[.*rolling_update \| Record the deploy"], 0.3),
}


def kill_at(process: "subprocess.Popen[str]", lines: list[str], seconds: float) -> Run:
    """Kill a playbook with all that it started, some seconds after it said the last of some lines.

    Its status is 0 where it had ended by then: what a killed run left on a host goes on by itself, and may leave
    nothing to do.
    """
    said, awaited = "", list(lines)
    for text in process.stdout or ():
        said += text
        if re.search(awaited[0], text) and not awaited[1:]:
            break
        del awaited[: bool(re.search(awaited[0], text))]
    time.sleep(seconds)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    said += process.communicate()[0]
    assert process.returncode in (0, -signal.SIGKILL), said
    assert "FAILED" not in said, said
    return Run(process.returncode, said)


def test_controller_that_is_killed_at_any_moment(fleet, before, fresh, watched, changed):
    """The same command, again and again: each run goes on from where the one before was killed, the last one ends."""
    variables = fleet.release(f"killed.{fresh}")
    known = {host: {record["id"] for record in fleet.records(host)} for host in fleet.hosts}
    with watched():
        runs = [kill_at(fleet.start("deploy", **variables), *moment) for moment in MOMENTS.values()]
        runs.append(fleet.play("deploy", **variables))
    changed(runs[-1], variables)
    story = "\n\n".join(f"{run.status}\n{run.output}" for run in runs)
    assert sum(run.status != 0 for run in runs) >= 4, story
    # whoever took the lock of the first host has one record there; whoever was killed before its end, one that says so
    began = [run for run in runs if "rolling_update | Lock the first host" in run.output]
    records = {host: [one for one in fleet.records(host) if one["id"] not in known[host]] for host in fleet.hosts}
    order = [record["id"] for record in records["app1"]]
    assert len(order) == len({*order}) == len(began), f"{records}\n{story}"
    for host in fleet.hosts:
        # a run may have been killed before it had the lock of another host
        assert [record["id"] for record in records[host]] == [
            name for name in order if name in {record["id"] for record in records[host]}
        ], f"{records}\n{story}"
        for record in records[host]:
            run = began[order.index(record["id"])]
            at_its_end = "rolling_update | Record the deploy, release the lock, prune old generations" in run.output
            allowed = (
                {"succeeded"} if run.status == 0 else {"interrupted", "succeeded" if at_its_end else "interrupted"}
            )
            assert record["outcome"] in allowed, f"{records}\n{story}"
        assert records[host][-1]["outcome"] == "succeeded", f"{records}\n{story}"
    second = fleet.play("deploy", **variables)
    assert (second.status, second.changed()) == (0, 0), second.output


def test_deploy_that_fails_after_a_killed_one_goes_back_to_where_that_began(fleet, before, candidate, watched, refused):
    """One host had changed: "back" is the release of before the killed run, on every host."""
    with watched() as watch:
        killed = kill_at(fleet.start("deploy", **candidate), *MOMENTS["between the hosts"])
        assert killed.status != 0, killed.output
        run = fleet.play("deploy", **candidate, tornado_app_settings={"TESTAPP_FAULT": "health"})
        watch.only(before["app1"].release)
    refused(run, "GET /health was answered with 500", f"back on {before['app1'].release}", same_processes=False)


def test_two_deploys_at_once(fleet, before, candidate, watched, changed):
    """One has its way. The other is told whose that is and since when, and changes nothing."""
    with watched():
        both = [
            fleet.start("deploy", **candidate, tornado_app_settings={"TESTAPP_TEST": number}) for number in ("1", "2")
        ]
        runs = [fleet.ended(process) for process in both]
    first, second = sorted(runs, key=lambda run: run.status)
    changed(first, candidate)
    assert second.status == 2, second.output
    new = candidate["tornado_app_version"]
    refusal = (
        rf"app1: \S+@\S+ began the deploy of {new} here at \d{{4}}-\d\d-\d\dT[\d:]+Z \(\d+ s ago\) and holds this host"
    )
    assert re.search(refusal, second.text), second.output
    assert "app1, app2: was not touched" in second.text, second.output


def test_disk_that_is_full(fleet, before, fresh, watched, refused, changed):
    """Nothing changes, and the message says how much there is and how much is needed. With room, the same command works."""
    variables = fleet.release(f"large.{fresh}")
    host = fleet.host("app1")
    free = int(fleet.sh("app1", "df --output=avail --block-size=1 /opt | tail -n 1"))
    host.check_output("fallocate --length %s /opt/filler", str(free - 400_000))
    try:
        left = fleet.sh("app1", "df --output=avail --block-size=1 /opt | tail -n 1")
        with watched() as watch:
            run = fleet.play("deploy", **variables)
            watch.only(before["app1"].release)
        refused(
            run,
            f"testapp {variables['tornado_app_version']} was not deployed: "
            "app1 failed while the release was installed and smoke-tested.",
            "app1 has no space left in /opt/testapp for release",
            "app1, app2: never left",
        )
        found = re.search(r"(\d+) bytes were free, and about (\d+) are needed", run.text)
        assert found, run.output
        assert int(found[1]) < int(found[2])
        assert abs(int(fleet.sh("app1", "df --output=avail --block-size=1 /opt | tail -n 1")) - int(left)) < 50_000
    finally:
        host.check_output("rm /opt/filler")
    with watched():
        run = fleet.play("deploy", **variables)
    changed(run, variables)
