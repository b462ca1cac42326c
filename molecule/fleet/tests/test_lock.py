"""One at a time: who comes second is told who is first."""

import getpass
import re
import socket
import time
from typing import Any

from support.fleet import Fleet, Run
from support.fleet_steps import Middle, Step

ME = re.escape(f"{getpass.getuser()}@{socket.gethostname()}")


def test_a_second_deploy_is_refused_and_the_first_succeeds(fleet: Fleet, deployed: Step, middle: Middle) -> None:
    release = re.escape(deployed.wanted["tornado_app_version"])
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(middle.lock["started"]))
    refusal = rf"app1: {ME} began the deploy of {release} here at {began} \(\d+ \w+ ago\) and holds this host until "
    assert middle.second.status != 0
    assert middle.second.changed() == 0
    assert re.search(refusal, middle.second.text), middle.second.output
    assert deployed.run.status == 0
    for host in fleet.hosts:
        assert middle.lock["id"] == deployed.after[host].records[-1]["id"]


def test_of_two_at_the_same_moment_one_wins(
    fleet: Fleet, deployed: Step, raced: tuple[list[Run], dict[str, Any]]
) -> None:
    (winner, loser), after = raced
    assert winner.status == 0, winner.output
    assert loser.status != 0, loser.output
    assert loser.changed() == 0
    release = re.escape(deployed.wanted["tornado_app_version"])
    assert re.search(rf"app1: {ME} began the rollback of {release} here at ", loser.text), loser.output
    assert {after[host].generation for host in fleet.hosts} == {deployed.after["app1"].generation}
    for host in fleet.hosts:
        assert [record["verb"] for record in after[host].records[-2:]] == ["rollback", "rollback"]
        assert after[host].records[-1]["to_release"] == deployed.wanted["tornado_app_version"]


def test_an_expired_lock_is_taken_over(fleet: Fleet, rotated: Step) -> None:
    """What somebody left is on record, and does not keep anybody out."""
    assert rotated.run.status == 0
    for host in fleet.hosts:
        *_, abandoned, record = rotated.after[host].records
        assert (abandoned["owner"], abandoned["outcome"]) == ("somebody@elsewhere", "interrupted")
        assert record["outcome"] == "succeeded"
        assert not fleet.host(host).file("/opt/testapp/deploy.json").exists
