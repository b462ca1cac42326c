"""Every way to run a Tornado program: deployed by the same playbook, handed over under traffic, and what it loses."""

import contextlib
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import pytest
from proof import Traffic
from support.fleet import Fleet, Run
from support.modes_steps import asking, example
from support.waiting import until

# What an inventory's vault has for the examples.
VAULT = {
    "vault_flower_basic_auth": "ada:lovelace",
    "vault_celery_broker_url": "memory://",
    "vault_jupyter_token": "0123456789abcdef",
    "vault_thumbor_security_key": "0123456789abcdef",
    "vault_hub_admin_password": "0123456789abcdef0123456789abcdef",
}
# What an example is asked for, where it is not its health: 300x200/colours.jpg, signed with the key above.
ASKED = {"thumbor": "/jGXIo0muwj6FLF6yvyrZvq2lg4k=/300x200/colours.jpg"}
SITE = {"nginx_server_name": ["modes.example.net", "127.0.0.1"]}


def deployed(fleet: Fleet, wanted: dict[str, Any], **more: Any) -> Run:
    """Deploy, and see that it succeeded."""
    run = fleet.play("deploy", **{**wanted, **VAULT, **SITE, **more})
    assert run.status == 0, run.output
    return run


def another(wanted: dict[str, Any]) -> dict[str, Any]:
    """The setting that makes another generation of the same release."""
    declared = wanted.get("site_apps", {}).get("testapp", {})
    return {"tornado_app_settings": {**declared.get("settings", {}), "ANOTHER": "generation"}}


def upgrade(fleet: Fleet, path: str) -> int:
    """The status of an answer to the first request of a WebSocket."""
    connection = http.client.HTTPConnection(urlsplit(fleet.doors["app1"]).netloc, timeout=10)
    headers = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    connection.request("GET", path, headers={**headers, "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ=="})
    with contextlib.closing(connection), connection.getresponse() as response:
        return response.status


@pytest.mark.parametrize("name", ["flower", "jupyter", "bokeh", "thumbor", "jupyterhub", "chat"])
def test_a_program_that_nobody_changed(fleet: Fleet, name: str) -> None:
    wanted = example(name)
    deployed(fleet, wanted)
    before = fleet.stand("app1")
    with asking(fleet, ("GET", ASKED.get(name, wanted["site_apps"]["testapp"]["health_path"]))) as clients:
        deployed(fleet, wanted, **another(wanted))
    after = fleet.stand("app1")
    assert after.release == before.release
    assert not set(before.pids.values()) & set(after.pids.values())
    for client in clients:
        assert client.lost == []
        assert client.answered > 50


def test_the_same_client_sees_a_restart(fleet: Fleet) -> None:
    """The control: the recipe's restart of the program that is there now."""
    with asking(fleet, ("GET", "/")) as clients:
        fleet.sh(
            "app1", "supervisorctl -c /etc/supervisor/supervisord.conf restart %s:*", fleet.stand("app1").generation
        )
    assert clients[0].lost


def test_what_is_no_tornado_program_is_refused(fleet: Fleet) -> None:
    before = fleet.stand("app1")
    with asking(fleet, ("GET", "/")) as clients:
        run = fleet.play("deploy", tornado_app_factory="", tornado_app_command=["-m", "http.server", "8099"])
    assert run.status == 2
    assert "app1 failed while the release was installed and smoke-tested" in run.text, run.output
    assert "-m http.server: __main__ wants to listen on" in run.text, run.output
    assert ":8099; expected Tornado's HTTPServer" in run.text, run.output
    assert fleet.stand("app1") == before
    assert clients[0].lost == []


def test_fork_mode(fleet: Fleet) -> None:
    """One program in supervisord, one port, two processes that answer; a group hands over to the next one."""
    wanted = {"tornado_app_fork": True}
    deployed(fleet, wanted)
    (before,) = fleet.processes("app1").values()
    with Traffic(fleet.doors, rate=100) as traffic:
        deployed(fleet, wanted, **another(wanted))
    assert traffic.report.lost == [], traffic.report.table()
    assert traffic.report.count(kind="WebSocket", fate="told") > 0, traffic.report.table()
    ((name, after),) = fleet.processes("app1").items()
    assert after != before
    children = fleet.sh("app1", "pgrep -P %s", after).split()
    assert len(children) == 2
    assert {request.pid for request in traffic.report.requests} >= set(children)
    status = fleet.play("status")
    assert f"app1 8000 ready {name.split('-')[1]}" in status.text, status.output

    fleet.sh("app1", "kill -KILL %s", children[0])
    until(lambda: len(set(fleet.sh("app1", "pgrep -P %s", after).split()) - {children[0]}) == 2, "another child")


def test_wsgi(fleet: Fleet) -> None:
    """The same factory under gunicorn: requests are handed over, too, and a WebSocket is told that there is none."""
    wanted = {"tornado_app_server": "gunicorn"}
    deployed(fleet, wanted)
    before = fleet.processes("app1")
    with asking(fleet, ("GET", "/echo"), ("POST", "/echo")) as clients:
        deployed(fleet, wanted, **another(wanted))
    after = fleet.processes("app1")
    assert len(after) == 2
    assert not set(before.values()) & set(after.values())
    for client in clients:
        assert client.lost == []
        assert client.answered > 50
    assert upgrade(fleet, "/live") == 501


def test_and_back_to_a_process_for_each_port(fleet: Fleet) -> None:
    deployed(fleet, {})
    assert len(fleet.stand("app1").pids) == 2
    assert upgrade(fleet, "/live") == 101


def test_debug_is_refused_where_users_are(fleet: Fleet) -> None:
    before = fleet.stand("app1")
    run = fleet.play("deploy", tornado_app_production=True, tornado_app_debug=True, tornado_app_processes=1)
    assert run.status == 2
    assert "tornado_app_debug: got true; expected false, because tornado_app_production is true." in run.text
    assert fleet.stand("app1") == before
    assert json.loads(fleet.sh("app1", "cat /opt/testapp/current/generation.json"))["ports"] == [8000, 8001]
