"""Who is on a host beside the processes that supervisord knows."""

import subprocess

from support.fleet import ask
from support.waiting import until

# On a host, at the processes themselves: nginx keeps connections. The kernel spreads new ones over whoever listens.
ASK = """
import http.client
def ask(port):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/health")
    return connection.getresponse().read().decode().strip()
print(*sorted({ask(port) for port in (8000, 8001) for _ in range(30)}))
"""


def test_foothold_is_named_and_does_not_outlive_a_deploy(fleet, before, candidate, changed):
    """It is nobody's child, has an environment of its own, and listens on a port of the application (SO_REUSEPORT)."""
    ask(fleet.doors["app1"], "/foothold", "POST")
    until(lambda: fleet.sh("app1", "python3 -c %s", ASK).split() == ["foothold", "ok"], "an answer of the foothold")
    pid = fleet.sh("app1", "pgrep -u testapp -f SO_REUSEPOR[T]").strip()
    status = fleet.play("status")
    assert f"app1 {pid} testapp" in status.text, status.output
    assert "left by a release (the next deploy ends it)" in status.text, status.output
    run = fleet.play("deploy", **candidate)
    assert f"app1: what a release had left was ended: {pid} of testapp ('" in run.text, run.output
    changed(run, candidate)
    assert fleet.sh("app1", "python3 -c %s", ASK).split() == ["ok"]


def test_stranger_of_the_account_is_named_and_nothing_changes(fleet, before, candidate):
    """Nobody of us started it: it is not for a deploy to end, and not to be deployed beside."""
    container = fleet.container("app2")
    subprocess.run(
        ["podman", "exec", "-d", "-u", "testapp", container, "sleep", "98765"], check=True, capture_output=True
    )
    pid = until(lambda: fleet.sh("app2", "pgrep -u testapp -x sleep || true").strip(), "the stranger")
    try:
        run = fleet.play("deploy", **candidate)
        assert run.status == 2, run.output
        assert f"app2: processes of testapp: got {pid} of testapp ('sleep 98765', since " in run.text, run.output
    finally:
        fleet.sh("app2", "kill %s", pid)
    assert fleet.stands() == before
