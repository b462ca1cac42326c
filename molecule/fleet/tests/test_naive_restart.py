"""The control: the restart of the recipe as it is written, before the same client, has to be seen as what it is."""

import time

import pytest
from proof import Report, Traffic
from support.fleet import Fleet, Run
from support.fleet_steps import Step


@pytest.fixture(scope="module")
def restarted(fleet: Fleet, settled: Step) -> Report:
    """Every process of a host at once, behind an nginx with its own defaults (max_fails=1 fail_timeout=10s)."""
    fleet.sh(
        "app1", "sed -i 's/ max_fails=0//' /etc/nginx/eyewall-app-testapp.conf && nginx -t -q && systemctl reload nginx"
    )
    with Traffic({door: fleet.doors[door] for door in ("balancer", "app1")}, rate=100) as traffic:
        time.sleep(1)
        with traffic.during("restart"):
            fleet.sh(
                "app1",
                "supervisorctl -c /etc/supervisor/supervisord.conf restart %s:*",
                settled.after["app1"].generation,
            )
        time.sleep(2)
    return traffic.report


@pytest.fixture(scope="module")
def mended(fleet: Fleet, settled: Step, restarted: Report) -> Run:
    return fleet.play("site", **settled.wanted)


def test_requests_are_lost_and_seen_to_be(restarted: Report) -> None:
    lost = restarted.only(door="app1", fate="lost")
    for kind in ("GET kept", "GET new", "POST kept", "POST new"):
        assert lost.count(kind=kind) > 5, restarted.table()
    assert any("502" in request.detail for request in lost.requests), restarted.table()


def test_the_site_is_put_in_order_and_it_is_said_what_was_not(fleet: Fleet, mended: Run) -> None:
    assert mended.status == 0, mended.output
    assert mended.changes() == {
        ("eyewall.tornado.nginx : application | Write the application's part of the configuration", "app1"),
        ("eyewall.tornado.nginx : run | Reload nginx if its configuration changed", "app1"),
    }
    assert fleet.sh("app1", "grep -c max_fails=0 /etc/nginx/eyewall-app-testapp.conf") == "2"


def test_a_second_run_changes_nothing(fleet: Fleet, settled: Step, mended: Run) -> None:
    run = fleet.play("site", **settled.wanted)
    assert run.status == 0, run.output
    assert run.changed() == 0, run.changes()
    assert set(fleet.stands()) == {"app1", "app2"}
