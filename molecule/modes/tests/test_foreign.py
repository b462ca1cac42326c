"""What somebody else has on the host: a site in nginx, a program in supervisord (prepare.yml).

First of this scenario. In the end the program is gone, for the examples are to run in the sandbox.
"""

import json
from typing import Any

from support.fleet import Fleet, Run
from support.sandbox import assert_sandboxed, services
from support.waiting import until

HOST = "app1"
# Sites that cannot stand beside ours; nginx itself takes each of them.
BAD = {
    "named": "server { server_name modes.example.net; }",
    "unnamed": "server { listen 80; }",
    "home": "server { listen 8089; root /home/shop; }",
}
STATE = "cd / && find etc usr/local opt -type f ! -name ld.so.cache ! -path 'etc/apt/*' -printf '%p %s %T@\\n' | sort | md5sum"


def client(fleet: Fleet) -> dict[str, Any]:
    """What the client has counted since before Eyewall came."""
    found: dict[str, Any] = json.loads(fleet.sh(HOST, "cat /run/shop"))
    return found


def look(fleet: Fleet) -> dict[str, str]:
    found: dict[str, str] = json.loads(fleet.sh(HOST, "python3 /root/client.py look"))
    return found


def refused(fleet: Fleet, **variables: Any) -> str:
    """What `site.yml` says that refuses; it changes nothing."""
    before, stood = fleet.sh(HOST, STATE), look(fleet)
    run: Run = fleet.play("site", **variables)
    assert run.status == 2, run.output
    assert run.changed() == 0, run.output
    assert (fleet.sh(HOST, STATE), look(fleet)) == (before, stood)
    return run.text.replace("''", "'")


def test_it_goes_on(fleet: Fleet) -> None:
    """Through the first `site.yml` and a deploy: answered each time, by the same processes."""
    run = fleet.play("deploy", tornado_app_settings={"ANOTHER": "generation"})
    assert run.status == 0, run.output
    before = json.loads(fleet.sh(HOST, "cat /root/before"))
    assert look(fleet) == before
    counted = client(fleet)
    assert counted["rounds"] > 100
    assert counted["lost"] == []


def test_the_sandbox_is_refused_beside_programs_of_others(fleet: Fleet) -> None:
    said = refused(fleet, supervisord_sandbox=True)
    assert "supervisord_sandbox: got true on app1, whose supervisord has programs of others" in said
    assert "(/etc/supervisor/conf.d/shop.conf); expected false" in said


def test_sites_that_take_our_requests_are_refused(fleet: Fleet) -> None:
    for name, text in BAD.items():
        fleet.sh(HOST, "echo %s >/etc/nginx/conf.d/%s.conf", text, name)
    try:
        said = refused(fleet, nginx_server_name=["modes.example.net"])
    finally:
        fleet.sh(HOST, "cd /etc/nginx/conf.d && rm named.conf unnamed.conf home.conf")
    assert "nginx_server_name: got modes.example.net on " in said
    assert "where /etc/nginx/conf.d/unnamed.conf has a server without a server_name" in said
    assert "where /etc/nginx/conf.d/home.conf has 'root /home/shop', which the sandbox closes" in said


def test_settings_that_nginx_takes_once_are_refused_with_their_line(fleet: Fleet) -> None:
    fleet.sh(HOST, "echo 'tcp_nopush on;' >/etc/nginx/conf.d/twice.conf")
    try:
        said = refused(fleet)
    finally:
        fleet.sh(HOST, "rm /etc/nginx/conf.d/twice.conf")
    assert '"tcp_nopush" directive is duplicate in /etc/nginx/conf.d/twice.conf:1' in said


def test_a_restart_of_supervisord_runs_it_once(fleet: Fleet) -> None:
    """And the control: the client notices that it is away for a moment."""
    before = look(fleet)
    fleet.sh(HOST, "systemctl restart supervisor")
    until(lambda: fleet.host(HOST).run("python3 /root/client.py once").rc == 0, "the program", 60)
    after = look(fleet)
    assert len(after["program"].split()) == 1, after
    assert after["program"] != before["program"]
    until(lambda: client(fleet)["lost"], "the client to notice", 30)


def test_without_it_the_sandbox_is_there(fleet: Fleet) -> None:
    fleet.sh(HOST, "rm /etc/supervisor/conf.d/shop.conf /etc/nginx/conf.d/shop.conf && systemctl stop shop-client")
    fleet.sh(HOST, "supervisorctl -c /etc/supervisor/supervisord.conf update shop")
    run = fleet.play("site", supervisord_sandbox=True)
    assert run.status == 0, run.output
    fleet.settle(HOST)
    assert_sandboxed(services(fleet.host(HOST), "supervisor")["supervisor"], "testapp")
