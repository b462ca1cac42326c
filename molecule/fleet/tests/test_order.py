"""Hosts change one batch after the other."""

from support.fleet import Fleet
from support.fleet_steps import Middle, Step


def test_the_first_host_changes_before_the_second(fleet: Fleet, deployed: Step, middle: Middle) -> None:
    """While the first had the new release, the second had its old processes, and no other."""
    assert [f":{port}" for port in (8000, 8001)] == [name[-5:] for name in sorted(middle.looks["app1"].processes)]
    assert all(name.startswith(deployed.after["app1"].generation) for name in middle.looks["app1"].processes)
    assert middle.looks["app2"].processes == deployed.before["app2"].processes
    first, second = (deployed.after[host].started for host in fleet.hosts)
    assert max(first.values()) < min(second.values())


def test_on_a_host_one_port_changes_after_the_other(fleet: Fleet, deployed: Step) -> None:
    """Each takes a second or more to get ready."""
    for host in fleet.hosts:
        there = deployed.after[host]
        times = [there.started[f"{there.generation}:{port}"] for port in (8000, 8001)]
        assert times[0] + 0.5 < times[1]
