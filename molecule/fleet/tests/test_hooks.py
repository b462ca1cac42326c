"""Tasks of the site's own, and the migration: when they run, where, as whom; and what a failure leaves."""

from support.fleet import Fleet
from support.fleet_steps import Step


def notes(fleet: Fleet, host: str) -> dict[str, tuple[float, str]]:
    """When the site's own tasks ran on a host, and which generation was current."""
    lines = [line.split() for line in fleet.sh(host, "cat /root/hooks").splitlines()]
    found = {moment: (float(at), current) for moment, at, current in lines}
    assert len(found) == len(lines), f"each ran once: {lines}"
    return found


def test_tasks_before_and_after_run_on_every_host_in_order(fleet: Fleet, deployed: Step, repeated: object) -> None:
    """Once each: the second command changed nothing, and so had no before and after."""
    times = {host: notes(fleet, host) for host in fleet.hosts}
    for host, found in times.items():
        assert found["before"][1] == deployed.before[host].generation
        assert found["after"][1] == deployed.after[host].generation
    started = [at for host in fleet.hosts for at in deployed.after[host].started.values()]
    assert max(found["before"][0] for found in times.values()) < min(started)
    assert min(found["after"][0] for found in times.values()) > max(started)


def test_the_migration_runs_once_as_the_application_before_any_process(fleet: Fleet, deployed: Step) -> None:
    at, *who = fleet.sh("app1", "cat /var/lib/testapp/migrated").split()
    assert who == ["testapp", deployed.wanted["tornado_app_version"], "red", "first-secret-of-the-testapp"]
    assert max(notes(fleet, host)["before"][0] for host in fleet.hosts) < float(at)
    assert float(at) < min(at for host in fleet.hosts for at in deployed.after[host].started.values())
    assert not fleet.host("app2").file("/var/lib/testapp/migrated").exists


def test_a_failing_migration_changes_nothing(fleet: Fleet, unmigrated: Step) -> None:
    assert unmigrated.run.status != 0
    assert unmigrated.report.lost == [], unmigrated.report.table()
    for host, there in unmigrated.after.items():
        before = unmigrated.before[host]
        assert there.doors == before.doors
        assert (there.generation, there.processes, there.staged) == (before.generation, before.processes, before.staged)
    for host, stands in fleet.stands().items():
        assert stands.generation == unmigrated.before[host].generation


def test_a_failing_migration_is_shown(fleet: Fleet, unmigrated: Step) -> None:
    said = unmigrated.run.text
    assert f"testapp {unmigrated.wanted['tornado_app_version']} was not deployed: " in said, unmigrated.run.output
    assert "failed while the migration ran" in said, unmigrated.run.output
    assert "ended with exit status 3; nothing was switched" in said, unmigrated.run.output
    assert "line 30 of the migration" in said
    assert "line 2 of the migration" not in said, "the last lines, and not all"
    assert "secret: ********" in said
    assert "secret-of-the-testapp" not in said
    for host in fleet.hosts:
        record = unmigrated.after[host].records[-1]
        assert (record["outcome"], record["to"]) == ("failed", unmigrated.before[host].generation)
        assert "the migration ran" in record["message"]
