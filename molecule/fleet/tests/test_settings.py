"""A rotated secret, a changed setting, another number of processes: the same move, under the same traffic."""

import re

import pytest
from support.fleet import Fleet
from support.fleet_steps import Step

SECRETS = ("first-secret-of-the-testapp", "second-secret-of-the-testapp")


@pytest.fixture(params=["rotated", "fewer"])
def step(request: pytest.FixtureRequest) -> Step:
    found: Step = request.getfixturevalue(request.param)
    return found


def test_nothing_is_lost(fleet: Fleet, step: Step) -> None:
    """nginx has to hear of another number of processes: its reload closes idle connections, and clients ask again."""
    assert step.run.status == 0, step.run.output[-3000:]
    assert step.report.lost == [], step.report.table()
    assert step.report.count(fate="resent") <= 40, step.report.table()


def test_every_host_has_it(fleet: Fleet, step: Step) -> None:
    ports = [8000 + number for number in range(step.wanted["tornado_app_processes"])]
    for host in fleet.hosts:
        old, new = step.before[host], step.after[host]
        assert new.settings == {**step.wanted["tornado_app_settings"], **step.wanted["tornado_app_secrets"]}
        assert new.settings != old.settings
        assert sorted(new.processes) == [f"{new.generation}:{port}" for port in ports]
        assert set(new.processes.values()).isdisjoint(old.processes.values())


def test_every_process_had_its_share(fleet: Fleet, step: Step) -> None:
    """The old ones and the new ones, those included that there are only before or after."""
    for host in fleet.hosts:
        answered = {request.pid for request in step.report.requests if request.host == host}
        expected = {*step.before[host].processes.values(), *step.after[host].processes.values()}
        assert answered == {str(pid) for pid in expected}


def test_nginx_is_reloaded_once_and_haproxy_never(step: Step) -> None:
    reloads = [(task, host) for task, host in step.run.changes() if "Reload nginx" in task]
    assert sorted(host for _, host in reloads) == ["app1", "app2"]
    for host, there in step.after.items():
        master = [process for process in there.doors if process in step.before[host].doors]
        if host == "lb1":
            assert there.doors == step.before[host].doors
        else:
            assert len(master) == 1, "the same master with new workers"
            assert len(there.doors) > 1


def test_nginx_names_the_ports(fleet: Fleet, rotated: Step, fewer: Step) -> None:
    for host in fleet.hosts:
        assert re.findall(r"server 127\.0\.0\.1:(\d+)", fleet.sh(host, "cat /etc/nginx/eyewall-app-testapp.conf")) == [
            "8000",
            "8001",
        ]


def test_the_secret_is_in_no_output(rotated: Step) -> None:
    """Not even with --diff -vvv, which shows what a module was given and what it returned."""
    assert '"module_args": {' in rotated.run.output, "it did tell"
    for secret in SECRETS:
        assert secret not in rotated.run.output


def test_the_secret_is_in_no_file_that_others_read(fleet: Fleet, rotated: Step, fewer: Step) -> None:
    places = "/etc /opt /root /home /run /srv /tmp /usr/local /var"
    for host in fleet.hosts:
        found = fleet.sh(
            host, f"grep -rlsF --devices=skip -e %s -e %s {places} | xargs -r stat -c '%%a %%U %%G %%n'", *SECRETS
        ).splitlines()
        assert f"640 root testapp /opt/testapp/generations/{rotated.after[host].generation}/settings.json" in found
        # what the migration of these tests wrote on purpose
        found = [line for line in found if not line.endswith(" /var/lib/testapp/migrated")]
        assert {re.sub(r" \S+/", " ", line) for line in found} == {"640 root testapp settings.json"}, found
        running = fleet.sh(host, "ps -eww -o args")
        assert "--settings" in running
        assert not any(secret in running for secret in SECRETS)
