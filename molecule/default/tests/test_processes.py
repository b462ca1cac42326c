"""One process per CPU, each by itself: on its own port, on loopback alone, and replaced when it dies."""

import os
import re
import signal
import subprocess

import pytest


def listening(site):
    """Every listening TCP socket of the host, as (address, port)."""
    lines = site.sh("ss --listening --tcp --numeric --no-header").splitlines()
    return [tuple(line.split()[3].rsplit(":", 1)) for line in lines]


def test_one_process_per_cpu(site):
    assert len(site.processes()) == int(site.sh("nproc"))


def test_each_answers_on_its_own_port(site):
    code = (
        "import json, sys, urllib.request;"
        "print(json.load(urllib.request.urlopen(f'http://127.0.0.1:{sys.argv[1]}/whoami'))['pid'])"
    )
    pids = {process["port"]: int(site.sh("python3 -c %s %s", code, process["port"])) for process in site.processes()}
    assert pids == {process["port"]: process["pid"] for process in site.processes()}
    assert len(set(pids.values())) == len(pids)


def test_processes_listen_on_loopback_and_nothing_else_is_open(site):
    ports = {str(process["port"]) for process in site.processes()}
    addresses = {address for address, port in listening(site) if port in ports}
    assert addresses == {"127.0.0.1"}
    outside = {port for address, port in listening(site) if not address.startswith(("127.", "[::1]"))}
    assert outside == {"80", "22"}, "from outside only the front door and SSH answer"


def test_the_account_can_write_neither_code_nor_settings(site):
    """And reads its own settings, which others cannot."""
    for path in (
        "/opt/board",
        "/opt/board/current/",
        "/opt/board/current/release/",
        "/opt/board/current/settings.json",
    ):
        assert site.host.run("su --shell /bin/sh board --command 'test -w %s'", path).rc == 1, path
    assert site.host.run("su --shell /bin/sh board --command 'test -r /opt/board/current/settings.json'").rc == 0
    assert site.host.run("su --shell /bin/sh nobody --command 'cat /opt/board/current/settings.json'").rc == 1


def test_secrets_are_in_no_process_list_log_or_readable_file(site):
    secret = "molecule-molecule-molecule-molecule"
    assert secret in site.host.file("/opt/board/current/settings.json").content_string
    assert secret not in site.sh("ps axww -o args")
    for process in site.processes():
        # who may read the settings may read the environment, and nobody else (proc(5))
        environment = site.host.file(f"/proc/{process['pid']}/environ")
        assert (environment.user, environment.mode) == ("board", 0o400)
    # journal and logs hold what Ansible's modules say of themselves on the host
    assert site.host.run("journalctl --no-pager | grep --quiet %s", secret).rc == 1
    # nor a setting, for any of them may be one: Ansible's modules write down what they are called with
    assert site.host.run("journalctl --no-pager | grep --quiet 'Invoked with'").rc == 1
    found = site.host.run("grep --recursive --files-with-matches %s /etc /opt /var/log /run /tmp 2>/dev/null", secret)
    generations = [path for path in found.stdout.split() if not path.endswith("/settings.json")]
    assert generations == []


def test_a_process_that_is_killed_comes_back(site, traffic, until):
    """SIGKILL loses at most the requests inside the process: one for each client."""
    victim, *others = site.processes()
    with traffic() as seen:
        until(lambda: seen.answers[victim["pid"]] > 50)
        site.sh("kill -KILL %s", victim["pid"])
        successor = until(lambda: next((p for p in site.processes() if p["port"] == victim["port"]), None), seconds=20)
        until(lambda: seen.answers[successor["pid"]] > 50)
    assert successor["pid"] != victim["pid"]
    assert {p["pid"] for p in others} <= {p["pid"] for p in site.processes()}, "the others were not touched"
    assert len(seen.lost) <= seen.clients, seen.lost


def test_every_process_killed_is_seen_by_the_client(site, traffic, until):
    """The control of the test above and of those in test_survival.py: this client sees what is lost."""
    with traffic() as seen:
        until(lambda: sum(seen.answers.values()) > 50)
        site.sh("supervisorctl -c /etc/supervisor/supervisord.conf signal KILL %s:*", site.generation)
        until(lambda: len(seen.lost) > seen.clients)
        until(lambda: site.get("/whoami").status == 200)


def test_each_is_named_logged_and_restartable_by_itself(site, traffic, until):
    first, *others = site.processes()
    name = f"{site.generation}:{first['port']}"
    with traffic() as seen:
        assert "started" in site.sh("supervisorctl -c /etc/supervisor/supervisord.conf restart %s", name)
        until(lambda: site.is_ready(first["port"]))
    assert not seen.lost
    successor, *others_now = site.processes()
    assert successor["pid"] != first["pid"]
    assert [p["pid"] for p in others_now] == [p["pid"] for p in others], "the others were not touched"
    log = site.host.file(f"/var/log/board/{site.generation}-{first['port']}.log").content_string
    assert f"pid {successor['pid']}" in log


def test_metrics_are_on_the_admin_socket_alone(site):
    process = site.processes()[0]
    assert "eyewall_requests_total" in site.ask(process["port"], "/metrics")
    assert site.get("/metrics").status == 404


@pytest.mark.parametrize("account", ["nobody", "board"])
def test_only_root_may_speak_to_supervisord(site, account):
    refused = site.host.run(
        "su --shell /bin/sh %s --command 'supervisorctl -c /etc/supervisor/supervisord.conf pid'", account
    )
    assert refused.rc != 0, refused
    assert site.sh("supervisorctl -c /etc/supervisor/supervisord.conf pid").isdigit()


def test_a_taken_port_is_said_before_anything_changes(site):
    """Something else on a port that the application would take: named with its process."""
    squatter = subprocess.Popen(
        ["podman", "exec", site.container, "python3", "-c",
         "import socket, time; s = socket.create_server(('127.0.0.1', 8101)); print('up', flush=True); time.sleep(120)"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert squatter.stdout is not None
        assert squatter.stdout.readline() == "up\n"
        done = site.play("-e", "tornado_app_port=8100 tornado_app_processes=2")
    finally:
        site.host.run("pkill -f 8101")
        os.kill(squatter.pid, signal.SIGTERM)
        squatter.wait()
        if squatter.stdout:
            squatter.stdout.close()
    assert done.returncode != 0
    said = " ".join(done.stdout.split())
    assert re.search(r"8101 is taken by \d+ of root \(.{0,3}python3 -c", said), done.stdout
    assert "changed=0" in done.stdout
