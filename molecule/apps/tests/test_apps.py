"""What happens to one application is none of the other's business."""

import contextlib
import http.client
import json
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

import yaml
from proof import Traffic
from support import REPOSITORY
from support.fleet import Fleet, Run, ask
from support.waiting import until

# `DEPLOYS=20 molecule test -s apps` for more
DEPLOYS = int(os.environ.get("DEPLOYS", "1"))
PARTS = "md5sum /etc/nginx/eyewall-app-%s.conf"


def site(*names: str) -> dict[str, object]:
    """The site with some of its two applications, as an inventory has it."""
    declared = yaml.safe_load((REPOSITORY / "molecule/inventory/group_vars/neighbours/apps.yml").read_text())[
        "site_apps"
    ]
    source = yaml.safe_load((REPOSITORY / "molecule/inventory/group_vars/all/apps.yml").read_text())["testapp"]
    own = {"testapp": "127.0.0.1", "neighbour": "127.0.0.2"}
    assert set(own) == set(declared)
    place = str(REPOSITORY / "tests" / "apps" / "testapp")
    return {"site_apps": {name: {**source, "source": place, "server_names": [own[name]]} for name in names}}


def deployed(run: Run) -> None:
    assert run.status == 0, run.output


def test_each_has_its_own(testapp: Fleet, neighbour: Fleet) -> None:
    """Account, ports, directories, names: and a name that none has is nobody's."""
    for fleet, first in ((testapp, 8000), (neighbour, 8100)):
        for host, stands in fleet.stands().items():
            assert sorted(stands.pids) == [first, first + 1], host
            assert stands.generation.startswith(f"{fleet.app}-")
            assert (
                fleet.sh(host, "stat --format=%%U /var/lib/%s /run/%s", fleet.app, fleet.app).split() == [fleet.app] * 2
            )
        for door in fleet.doors.values():
            status, headers, _ = ask(door, "/pool")
            port = {name.lower(): value for name, value in headers.items()}["x-port"]  # HAProxy writes names so
            assert (status, int(port) // 100) == (200, first // 100), door
    run = testapp.play("status")
    assert run.status == 0, run.output
    assert "application" in run.text
    assert "neighbour/app2 UP" in run.text


def test_deploys_and_rollbacks_of_both_at_the_same_time(testapp: Fleet, neighbour: Fleet, calm) -> None:
    """Two people, two applications: each run ends well, and no request of either is lost."""
    with calm(testapp, neighbour):
        for number in range(DEPLOYS):
            name = f"both.{number}.{time.time():.0f}"
            runs = [fleet.start("deploy", app=fleet.app, **fleet.release(name)) for fleet in (testapp, neighbour)]
            for run in runs:
                deployed(testapp.ended(run))
            back = [fleet.start("rollback", app=fleet.app) for fleet in (testapp, neighbour)]
            for run in back:
                deployed(testapp.ended(run))
    for fleet in (testapp, neighbour):
        assert len({stands.release for stands in fleet.stands().values()}) == 1


def test_one_that_is_broken_leaves_the_other_alone_and_is_named(testapp: Fleet, neighbour: Fleet, calm) -> None:
    """The first of the two fails; the second has its turn all the same, in the same run."""
    before = testapp.stands()
    old = neighbour.stands()
    parts = {host: testapp.sh(host, PARTS, "testapp") for host in testapp.hosts}
    broken = site("testapp", "neighbour")
    apps = broken["site_apps"]
    assert isinstance(apps, dict)
    apps["testapp"]["settings"] = {"TESTAPP_FAULT": "health"}
    apps["neighbour"]["settings"] = {"TESTAPP_COLOUR": f"{time.time():.0f}"}
    with calm(testapp, neighbour):
        run = testapp.play("deploy", **broken)
    assert run.status == 2, run.output
    assert "testapp: not deployed, as it says above. Every other application that differed was." in run.text
    assert "GET /health was answered with 500" in run.text
    assert testapp.stands() == before
    new = neighbour.stands()
    assert all(new[host].generation != old[host].generation for host in neighbour.hosts)
    # one that is deployed touches no file of the other
    assert {host: testapp.sh(host, PARTS, "testapp") for host in testapp.hosts} == parts
    assert testapp.records("app1")[-1]["outcome"] == "failed"
    assert neighbour.records("app1")[-1]["outcome"] == "succeeded"


def test_the_client_sees_an_application_that_is_restarted(testapp: Fleet, neighbour: Fleet) -> None:
    """The control: the recipe's restart, of one alone. Its clients lose, and those of the other do not."""
    group = testapp.stand("app1").generation
    with Traffic(testapp.doors, 60) as seen, Traffic(neighbour.doors, 60) as beside:
        testapp.sh("app1", "supervisorctl -c /etc/supervisor/supervisord.conf restart %s:*", group)
        testapp.settle("app1")
        time.sleep(1)
    assert seen.report.lost
    assert beside.report.lost == [], beside.report.table()


def test_one_is_removed_and_added_while_the_other_has_traffic(
    testapp: Fleet, neighbour: Fleet, calm, tmp_path: Path
) -> None:
    generation = neighbour.stand("app1").generation
    pids = {host: neighbour.stand(host).pids for host in neighbour.hosts}
    ports = {host: sorted(testapp.stand(host).pids) for host in testapp.hosts}
    alone = tmp_path / "alone.json"
    alone.write_text(json.dumps(site("testapp")))
    with calm(testapp):
        still = testapp.play("remove_app", app="neighbour")
        assert still.status == 2, still.output
        assert "app: got 'neighbour', which site_apps has on every host" in still.text
        without = testapp.play("site", "-e", f"@{alone}")
        deployed(without)
        left = "neighbour is on this host, and not in site_apps for it."
        assert f"app1: {left}" in without.text, without.output
        assert f"app2: {left}" in without.text
        assert {host: neighbour.stand(host).pids for host in neighbour.hosts} == pids, "nothing is removed unasked"
        assert testapp.play("status", "-e", f"@{alone}").status == 2
        removed = testapp.play("remove_app", "-e", f"@{alone}", app="neighbour")
        deployed(removed)
        assert "neighbour was removed from app1, app2. app1, app2: what stays is /var/lib/neighbour" in removed.text
        for host in testapp.hosts:
            assert not testapp.sh(host, "find /etc /opt /run /usr/local/sbin /var/log -name '*neighbour*'")
            assert generation not in testapp.sh(
                host, "supervisorctl -c /etc/supervisor/supervisord.conf status || test $? = 3"
            )
            assert testapp.sh(host, "stat --format=%U /var/lib/neighbour").strip() == "neighbour"
        deployed(testapp.play("status", "-e", f"@{alone}"))
        again = testapp.play("remove_app", "-e", f"@{alone}", app="neighbour")
        assert again.changed() == 0, again.output
        deployed(testapp.play("site"))
        until(lambda: ask(neighbour.doors["balancer"], "/")[0] == 200, "the balancer to ask it")
    assert {host: sorted(neighbour.stand(host).pids) for host in neighbour.hosts} == {
        host: [8100, 8101] for host in neighbour.hosts
    }
    assert {host: sorted(testapp.stand(host).pids) for host in testapp.hosts} == ports


def test_a_name_that_none_has_is_misdirected(testapp: Fleet) -> None:
    for door in testapp.doors.values():
        connection = http.client.HTTPConnection(urlsplit(door).netloc, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Host": "nosuch.example"})
            assert connection.getresponse().status == 421, door
