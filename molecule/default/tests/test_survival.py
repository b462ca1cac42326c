"""What the site survives: its supervisor killed, its front door killed, a changed secret, a reboot."""

import json
import subprocess

import pytest


@pytest.mark.parametrize(
    "command",
    [
        "kill -KILL $(supervisorctl -c /etc/supervisor/supervisord.conf pid)",
        # Debian's own way is a restart, in which supervisord would stop every process
        "DEBIAN_FRONTEND=noninteractive apt-get install --yes --reinstall supervisor",
    ],
    ids=["killed", "upgraded"],
)
def test_another_supervisord_loses_nothing(site, traffic, until, command):
    """systemd starts it again, it starts its programs, they join the ports, and the orphans leave by themselves."""
    before = {process["pid"] for process in site.processes()}
    with traffic() as seen:
        until(lambda: before <= set(seen.answers))
        site.sh(command)
        until(lambda: {process["pid"] for process in site.processes()}.isdisjoint(before), seconds=60)
        after = {process["pid"] for process in site.processes()}
        until(lambda: after <= set(seen.answers))
        until(lambda: before.isdisjoint(process.pid for process in site.host.process.filter(user="board")), seconds=60)
    assert not seen.lost
    assert not seen.resent
    assert len(after) == len(before)


def test_debians_way_to_stop_supervisord_loses_requests(site, traffic, until):
    """The control: Debian's ExecStop."""
    with traffic() as seen:
        until(lambda: sum(seen.answers.values()) > 50)
        site.sh("supervisorctl -c /etc/supervisor/supervisord.conf shutdown")
        until(lambda: len(seen.lost) > seen.clients)


def test_nginx_killed_comes_back(site, until):
    site.sh("kill -KILL $(cat /run/nginx.pid)")
    until(lambda: site.get("/whoami").status == 200)


def test_a_rotated_secret_loses_nothing(site, traffic):
    """A changed setting is another generation: processes change hands under traffic, nginx is not touched."""
    generation, before = site.generation, {process["pid"] for process in site.processes()}
    workers = {worker.pid for worker in site.host.process.filter(user="www-data", comm="nginx")}
    with traffic() as seen:
        secret = "vault_tornado_app_cookie_secret=rotated-rotated-rotated-rotated-rotated"
        done = site.play("-e", secret, playbook="playbooks/deploy.yml")
        assert done.returncode == 0, done.stdout + done.stderr
    after = {process["pid"] for process in site.processes()}
    assert site.generation != generation
    assert after.isdisjoint(before)
    assert before | after == set(seen.answers)
    assert not seen.lost
    assert not seen.resent
    assert workers == {worker.pid for worker in site.host.process.filter(user="www-data", comm="nginx")}
    assert "rotated-rotated" not in done.stdout


def test_what_interrupted_runs_leave_is_put_in_order(site):
    """Two generations known to supervisord, one current: the same command again ends with one."""
    done = site.play(playbook="playbooks/deploy.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    groups = {
        line.split(":")[0] for line in site.sh("supervisorctl -c /etc/supervisor/supervisord.conf status").splitlines()
    }
    assert groups == {site.generation}
    assert site.host.file("/etc/supervisor/conf.d").listdir() == [f"eyewall-app-{site.generation}.conf"]
    # what supervisord runs is what its files say
    assert site.sh("supervisorctl -c /etc/supervisor/supervisord.conf update") == ""


def test_a_reboot_brings_everything_back(site, until):
    generation, before = site.generation, {process["pid"]: process["started"] for process in site.processes()}
    unfinished = "/etc/supervisor/conf.d/eyewall-app-board-unfinished.conf"
    # as in the middle of a handover: another generation that supervisord would know, too
    site.sh("sed s/%s/board-unfinished/ /opt/board/current/supervisor.conf >%s", generation, unfinished)
    subprocess.run(["podman", "restart", "--time", "100", site.container], check=True, capture_output=True)
    try:
        until(lambda: site.get("/whoami").status == 200, seconds=60)
        processes = until(site.processes, seconds=30)
        assert site.generation == generation
        assert {process["state"] for process in processes} == {"ready"}
        assert not before.items() & {process["pid"]: process["started"] for process in processes}.items()

        # a process may be ready before supervisord calls it so (startsecs)
        def running():
            status = site.host.run("supervisorctl -c /etc/supervisor/supervisord.conf status").stdout
            return [line for line in status.splitlines() if "RUNNING" in line]

        until(lambda: len(running()) == len(before))
        assert {line.split(":")[0] for line in running()} == {generation}
        assert json.loads(site.get("/whoami").body)["host"] == site.name
    finally:
        site.sh("rm %s && supervisorctl -c /etc/supervisor/supervisord.conf update", unfinished)
