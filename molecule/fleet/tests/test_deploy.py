"""A deploy of a new release with clients at every door, and the same deploy again."""

import getpass
import re
import socket
import struct
from typing import Any

import websocket
from support.fleet import Fleet, Run
from support.fleet_steps import Look, Step

KINDS = (
    *("GET kept", "GET new", "POST kept", "POST new", "GET slow", "POST slow", "upload", "download", "page", "asset"),
    *("WebSocket message", "WebSocket"),
)


def test_nothing_is_lost(fleet: Fleet, deployed: Step) -> None:
    assert deployed.run.status == 0, deployed.run.output
    assert deployed.report.lost == [], deployed.report.table()
    assert deployed.report.count(fate="resent") == 0, deployed.report.table()
    for door in fleet.doors:
        for kind in KINDS:
            assert deployed.report.count(kind=kind, door=door) > 1, f"{kind} through {door}"


def test_both_releases_answer_and_then_the_new_one_alone(fleet: Fleet, began: dict[str, str], deployed: Step) -> None:
    old, new = began["app1"], deployed.wanted["tornado_app_version"]
    assert deployed.report.marks[0].label == "deploy"
    ended = deployed.report.marks[0].end
    for door in fleet.doors:
        report = deployed.report.only(door=door)
        assert [release for release in report.releases() if release] == [old, new]
        # nginx answers for static files, and says no release
        assert {request.release for request in report.requests if request.start > ended} == {new, ""}


def test_websockets_are_told_and_come_back_to_the_new_release(
    fleet: Fleet, live: websocket.WebSocket, deployed: Step
) -> None:
    new = deployed.wanted["tornado_app_version"]
    for door in fleet.doors:
        connections = deployed.report.only(kind="WebSocket", door=door)
        assert connections.count(fate="told") >= 2, deployed.report.table()
        last = max(connections.requests, key=lambda request: request.start)
        assert (last.release, last.fate) == (new, "answered")
    opcode, payload = live.recv_data(control_frame=True)
    assert opcode == websocket.ABNF.OPCODE_CLOSE
    assert struct.unpack(">H", payload[:2])[0] == 1012, "service restart"


def test_every_host_runs_the_new_release_and_nothing_else(fleet: Fleet, deployed: Step) -> None:
    for host in fleet.hosts:
        old, new = deployed.before[host], deployed.after[host]
        assert new.release == deployed.wanted["tornado_app_version"]
        assert sorted(new.processes) == [f"{new.generation}:8000", f"{new.generation}:8001"]
        assert set(new.processes.values()).isdisjoint(old.processes.values())
        assert new.settings == {"TESTAPP_COLOUR": "red", "TESTAPP_SECRET": "first-secret-of-the-testapp"}


def test_nothing_of_the_release_was_executed_by_root(fleet: Fleet, deployed: Step) -> None:
    """Not while it was installed, not when it was imported, and not by supervisord before it became the account."""
    assert deployed.run.status == 0, deployed.run.output
    for host in fleet.hosts:
        account = fleet.sh(host, "id -u testapp").strip()
        ran = set(fleet.sh(host, "sort -u /var/lib/testapp/ran").splitlines())
        assert ran == {f"{account} pth", f"{account} import"}, host


def test_the_front_doors_stand_still(deployed: Step) -> None:
    for host, there in deployed.after.items():
        assert there.doors == deployed.before[host].doors
        assert there.doors


def test_it_says_what_it_changed_and_no_more(deployed: Step) -> None:
    changes = {task.removeprefix("eyewall.tornado.tornado_app : "): set() for task, _ in deployed.run.changes()}
    for task, host in deployed.run.changes():
        changes[task.removeprefix("eyewall.tornado.tornado_app : ")].add(host)
    assert changes == {
        "rolling_update | Lock the host, install the release, publish its static files, and run the smoke test": {
            "app1",
            "app2",
        },
        "rolling_update | Run the migration": {"app1"},
        "handover | Replace the processes, port by port": {"app1", "app2"},
    }
    release = deployed.wanted["tornado_app_version"]
    assert re.search(rf"testapp {re.escape(release)} is on app1, app2 \(from \S+\): 4 processes,", deployed.run.text)
    assert "first-secret" not in deployed.run.output


def test_it_is_on_record(fleet: Fleet, began: dict[str, str], deployed: Step) -> None:
    for host in fleet.hosts:
        record = deployed.after[host].records[-1]
        assert len(deployed.after[host].records) == len(deployed.before[host].records) + 1
        assert record["owner"] == f"{getpass.getuser()}@{socket.gethostname()}"
        assert (record["verb"], record["outcome"]) == ("deploy", "succeeded")
        assert (record["from_release"], record["from"]) == (began[host], deployed.before[host].generation)
        assert record["to_release"] == deployed.wanted["tornado_app_version"]
        assert record["to"] == deployed.after[host].generation
        assert (
            deployed.report.marks[0].start - 1 <= record["started"] <= record["ended"] <= deployed.report.marks[0].end
        )


def test_status_shows_it(fleet: Fleet, began: dict[str, str], deployed: Step, status: Run) -> None:
    assert status.status == 0, status.output
    assert status.changed() == 0
    new, old = (re.escape(name) for name in (deployed.wanted["tornado_app_version"], began["app1"]))
    for host in fleet.hosts:
        for name, pid in deployed.after[host].processes.items():
            port = name.rpartition(":")[2]
            assert re.search(rf"{host} {port} ready {new} {pid} ", status.text), status.output
    assert re.search(rf"app1, app2 \S+@\S+ deploy {new} {old} {new} succeeded ", status.text), status.output


def test_the_same_again_changes_nothing(
    fleet: Fleet, deployed: Step, repeated: tuple[Run, dict[str, Any]], began: dict[str, str]
) -> None:
    run, after = repeated
    assert run.status == 0, run.output
    assert run.changed() == 0, run.changes()
    assert set(deployed.after["app1"].staged) - set(deployed.before["app1"].staged), "there was something to stage"
    there: Look
    for host, there in after.items():
        assert there == deployed.after[host]
