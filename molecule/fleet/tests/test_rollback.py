"""The way back: by the same gates, with nothing built, under the same traffic."""

from typing import Any

from support.fleet import Fleet, Run
from support.fleet_steps import Step


def test_nothing_is_lost(rolled_back: Step) -> None:
    assert rolled_back.run.status == 0, rolled_back.run.output
    assert rolled_back.report.lost == [], rolled_back.report.table()
    assert rolled_back.report.count(fate="resent") == 0, rolled_back.report.table()


def test_code_and_settings_are_back_on_every_host(fleet: Fleet, deployed: Step, rolled_back: Step) -> None:
    """The same generation as before the deploy, in new processes; nothing was built or brought for it."""
    for host in fleet.hosts:
        before, there = deployed.before[host], rolled_back.after[host]
        assert (there.release, there.generation, there.settings) == (before.release, before.generation, before.settings)
        assert there.settings != rolled_back.before[host].settings
        assert sorted(there.processes) == [f"{there.generation}:8000", f"{there.generation}:8001"]
        assert set(there.processes.values()).isdisjoint(before.processes.values())
        assert there.staged == rolled_back.before[host].staged
        assert (there.records[-1]["verb"], there.records[-1]["to"]) == ("rollback", before.generation)
    answered = [release for release in rolled_back.report.releases() if release]
    assert answered == [rolled_back.before["app1"].release, deployed.before["app1"].release]


def test_the_front_doors_stand_still(rolled_back: Step) -> None:
    for host, there in rolled_back.after.items():
        assert there.doors == rolled_back.before[host].doors


def test_it_was_proved_first(fleet: Fleet, rolled_back: Step) -> None:
    """Its process out of rotation wrote its log before the first port changed hands."""
    for host in fleet.hosts:
        there = rolled_back.after[host]
        log = f"/var/log/testapp/{there.generation}-proof-8000.log"
        written = float(fleet.sh(host, "stat -c %%.3Y %s", log))
        assert rolled_back.report.marks[0].start < written < min(there.started.values())


def test_it_says_what_it_changed_and_no_more(rolled_back: Step) -> None:
    changes = {(task.removeprefix("eyewall.tornado.tornado_app : "), host) for task, host in rolled_back.run.changes()}
    assert changes == {("handover | Replace the processes, port by port", host) for host in ("app1", "app2")}


def test_a_release_that_is_not_there_is_refused(deployed: Step, rolled_back: Step, not_there: Run) -> None:
    assert not_there.status != 0
    assert not_there.changed() == 0
    assert "tornado_app_version is '9.9.9', which is not on app1, app2." in not_there.text, not_there.output
    refused_with_a_list(not_there, rolled_back.after["app1"].release, deployed.wanted["tornado_app_version"])


def test_at_the_oldest_it_is_refused(at_the_oldest: Run, deployed: Step) -> None:
    assert at_the_oldest.status != 0
    assert at_the_oldest.changed() == 0
    assert "There is nothing to go back to on app1, app2: no release was there before" in at_the_oldest.text
    refused_with_a_list(at_the_oldest, "", deployed.wanted["tornado_app_version"])


def refused_with_a_list(run: Run, current: str, other: str) -> None:
    """See that a refusal lists what each host has."""
    allowed = run.text.partition("Expected is a release that every host keeps, as in -e tornado_app_version=RELEASE:")[
        2
    ]
    for host in ("app1", "app2"):
        listed = allowed.partition(f"{host}: ")[2]
        assert f"{current} (current)" in listed, run.output
        assert other in listed, run.output


def test_a_release_is_named(fleet: Fleet, deployed: Step, raced: tuple[list[Run], dict[str, Any]]) -> None:
    """With the settings that it had."""
    runs, after = raced
    assert runs[0].status == 0, runs[0].output
    for host in fleet.hosts:
        assert after[host].generation == deployed.after[host].generation
        assert after[host].settings == deployed.after[host].settings
