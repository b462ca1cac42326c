"""Processes and hosts that die or hang, at rest and in the middle of a deploy."""

import contextlib
import http.client
import subprocess
import threading
import time
from collections.abc import Iterator

import pytest
from support.fleet import ask
from support.waiting import until

HANDOVER = "handover | Replace the processes, port by port"


@pytest.fixture
def handing_over(fleet):
    """Starts a deploy; waits until the processes of a host change hands; gives the playbook."""

    @contextlib.contextmanager
    def start(host: str, variables: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
        process = fleet.start("deploy", **variables)
        new = f"testapp-{variables['tornado_app_version']}-"

        def has_begun() -> bool:
            return any(name.startswith(new) and "-proof:" not in name for name in fleet.processes(host))

        try:
            until(has_begun, f"the first new process on {host}", 90)
            yield process
        finally:
            if process.poll() is None:
                process.communicate(timeout=120)

    return start


def test_old_process_that_hangs_in_its_drain_is_not_waited_for(fleet, before, candidate, watched, changed):
    """What hangs has the drain time, and is told 502; everything else has its answer, and the deploy succeeds."""
    told: list[tuple[float, int]] = []

    def hang() -> None:
        begun = time.monotonic()
        status, _, _ = ask(fleet.doors["app1"], "/hang", "POST")
        told.append((time.monotonic() - begun, status))

    with watched():
        thread = threading.Thread(target=hang)
        thread.start()
        run = fleet.play("deploy", **candidate)
        thread.join(30)
    changed(run, candidate)
    ((seconds, status),) = told
    assert status == 502
    assert seconds > 10, "it had less than the drain time"


def test_process_that_is_killed_is_started_again(fleet, before, watched):
    began, pid = time.time(), before["app1"].pids[8000]
    with watched() as watch:
        fleet.sh("app1", "kill -KILL %s", pid)
        until(lambda: fleet.deaths("app1", began), "a death")
        until(lambda: len(fleet.processes("app1")) == 2, "two processes")
        watch.only(before["app1"].release)
        watch.spare_inside("app1", fleet.deaths("app1", began))
    until(
        lambda: "8000" in fleet.sh("app1", "supervisorctl -c /etc/supervisor/supervisord.conf status | grep RUNNING"),
        "the port",
    )
    after = fleet.stand("app1")
    assert after.pids[8000] != pid
    assert after.pids[8001] == before["app1"].pids[8001]


def test_blocked_loop_leaves_its_stack_and_is_replaced(fleet, before, watched):
    """The watchdog has 5 seconds. What is inside waits that long and is lost; the other processes answer the rest."""
    began = time.time()
    with watched() as watch:
        status, _, _ = ask(fleet.doors["app1"], "/block", "POST")
        died = time.time()
        assert status == 502
        assert 4 < died - began < 9
        deaths = until(lambda: fleet.deaths("app1", began), "a death")
        # what came in 5 s: messages of four WebSockets, and a share of the POSTs
        watch.spare_inside("app1", deaths, at_once=60)
        until(lambda: len(fleet.processes("app1")) == 2, "two processes")
        watch.only(before["app1"].release)
    after = fleet.settle("app1")
    (port,) = [port for port, pid in after.pids.items() if pid != before["app1"].pids[port]]
    log = fleet.sh("app1", "tail -n 100 /var/log/testapp/%s-%s.log", after.generation, port)
    assert "in post" in log
    assert "application.py" in log


def test_supervisord_that_is_killed_in_a_handover(fleet, before, candidate, handing_over, watched, changed):
    """Nothing is lost, and the same command ends what was begun, if the run did not."""
    with watched():
        with handing_over("app1", candidate) as process:
            fleet.sh("app1", "kill -KILL $(supervisorctl -c /etc/supervisor/supervisord.conf pid)")
            first = fleet.ended(process)
        run = fleet.play("deploy", **candidate)
    assert first.status in (0, 2), first.output
    changed(run, candidate)


def test_host_that_dies_in_its_turn(fleet, before, candidate, handing_over, watched, changed):
    """The other hosts go back. When it is here again, only the generation that was current starts."""
    old, new = before["app1"].release, candidate["tornado_app_version"]
    with watched() as watch:
        with handing_over("app2", candidate) as process:
            struck = time.time()
            subprocess.run(["podman", "kill", fleet.container("app2")], check=True, capture_output=True)
            dead = time.time()
            # it stays away until the run has ended: one that is back sooner is given back like the others
            first = fleet.ended(process)
        subprocess.run(["podman", "start", fleet.container("app2")], check=True, capture_output=True)
        until(lambda: healthy(fleet.doors["app2"]), "app2 to be back", 60)
        # through the balancer only what was inside the host; when a kernel kills it all, nginx outlives the processes
        # that it asks by a moment, and says so (502)
        watch.spare_inside("app2", [dead], at_once=10_000, seconds=5)
        watch.spare(lambda request: request.door == "balancer" and struck < request.end < dead + 3)
        watch.spare(lambda request: request.door == "app2" and request.end > struck)
        watch.only(old)
    assert first.status == 2, first.output
    assert "app2 could not be reached while processes changed hands" in first.text, first.output
    assert (
        f"app1: back on {old} app2: did not answer; it starts {old}, or {new} if its move has ended, at boot"
        in first.text
    ), first.output
    assert fleet.stand("app1").generation == before["app1"].generation
    # the group that nobody could remove is there, and nothing of it runs
    assert sorted(fleet.processes("app2")) == [f"{before['app2'].generation}:{port}" for port in (8000, 8001)]
    with watched():
        run = fleet.play("deploy", **candidate)
    changed(run, candidate)


def healthy(door: str) -> bool:
    try:
        return ask(door, "/health")[0] == 200
    except (OSError, http.client.HTTPException):
        return False
