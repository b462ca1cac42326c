"""What `site_apps` may say: one schema, and a sentence for each mistake."""

from collections.abc import Mapping
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import trust_as_template
from support.product import evaluate, options_of, plugin, variables

site_apps = plugin("plugin_utils", "site_apps")
GROUPS = {"app": ["app1", "app2"], "workers": ["app2"], "balancers": ["lb1"], "empty": []}
BOARD = {"source": "/src", "factory": "board:make_app", "server_names": ["www.example.com"]}
CHAT = {"source": "/src/chat", "command": ["chat"], "server_names": ["chat.example.com"]}


def test_a_key_is_an_input_of_a_role() -> None:
    assert len(site_apps.schema()) > 40
    options = {**options_of("tornado_app"), **options_of("nginx")}
    for key, variable in site_apps.variables_of_keys().items():
        option = options[variable]
        assert site_apps.schema()[key] == option
        assert option.get("required") or variable in site_apps.defaults()


def test_what_is_not_an_applications_is_an_input_all_the_same() -> None:
    """The control of the list: a name that no role has would be there for nothing."""
    assert set(options_of("tornado_app")) >= site_apps.NOT_OF_AN_APPLICATION
    assert set(options_of("nginx")) >= {*site_apps.OF_NGINX.values()}


@pytest.mark.parametrize(
    ("apps", "said"),
    [
        ({"board": BOARD}, []),
        ({"board": BOARD, "chat": CHAT}, []),
        ({"board": BOARD | {"hosts": "workers"}}, []),
        ("{{ apps_of_this_site }}", []),
        ({"board": "{{ board }}"}, []),
        (None, ["site_apps: got nothing; expected the applications"]),
        ({}, ["site_apps: got nothing; expected the applications"]),
        (["board"], ["site_apps: got ['board']; expected the applications"]),
        ({"board": None}, ["site_apps.board: got nothing; expected a mapping"]),
        ({"board": "/src"}, ["site_apps.board: got '/src'; expected a mapping"]),
        ({"board": {"factory": "b:m"}}, ["site_apps.board.source: got nothing; expected a string."]),
        ({"Board": BOARD}, ["site_apps.Board: got the name 'Board'; expected 1 to 24 lowercase letters"]),
        (
            {"board": BOARD | {"factroy": "x"}},
            ["site_apps.board.factroy: got a key that no application has; expected one of docs/applications.md. "
             "Did you mean factory?"],
        ),
        ({"board": BOARD | {"settings": ["A=1"]}}, ["site_apps.board.settings: got a list; expected a mapping"]),
        ({"board": BOARD | {"version": 1.10}}, ["site_apps.board.version: got a number (1.1); expected a string."]),
        ({"board": BOARD | {"server": "wsgi"}}, ["site_apps.board.server: got 'wsgi'; expected tornado or gunicorn."]),
        ({"board": BOARD | {"secrets": "hunter2"}}, ["site_apps.board.secrets: got a"]),
        ({"board": BOARD | {"hosts": "wrokers"}}, ["site_apps.board.hosts: got 'wrokers'; expected a group"]),
        ({"board": BOARD | {"hosts": "empty"}}, ["site_apps.board.hosts: got 'empty'; expected a group"]),
        ({"board": BOARD | {"hosts": "balancers"}}, ["site_apps.board.hosts: got 'balancers', in which lb1 is not in"]),
        (
            {"board": BOARD, "chat": CHAT | {"server_names": ["WWW.example.com"]}},
            ["site_apps.chat.server_names: got WWW.example.com, which site_apps.board has; expected another name, "
             "because applications cannot share one by path."],
        ),
        (
            {"board": BOARD, "chat": {key: value for key, value in CHAT.items() if key != "server_names"}},
            ["site_apps.chat.server_names: got any name ('_') beside other applications; expected host names for this "
             "application."],
        ),
    ],
    ids=str,
)  # fmt: skip
def test_each_mistake_is_a_sentence(apps: Any, said: list[str]) -> None:
    found = site_apps.mistaken_apps(apps, GROUPS)
    assert len(found) == len(said), found
    for sentence, words in zip(found, said, strict=True):
        assert words in sentence
        assert "hunter2" not in sentence


def applications(site: Mapping[str, Any], **given: Any) -> Any:
    """What the lookup has to work with, in a playbook's place."""
    known = {
        "site_apps": site,
        "groups": GROUPS | {"balancers": []},
        "inventory_hostname": "app1",
        "ansible_play_hosts_all": ["app1", "app2"],
    }
    return variables(**{**known, **given})


def inputs(site: Mapping[str, Any], name: str, **given: Any) -> dict[str, Any]:
    found: dict[str, Any] = evaluate(f"lookup('eyewall.tornado.apps', inputs='{name}')", **applications(site, **given))
    return found


def test_an_application_is_the_variables_of_the_roles() -> None:
    loader = DataLoader()
    site = loader.load(
        "{board: {source: '{{ inventory_dir }}/x', server_names: [www.example.com], settings: {DATA: '{{ tornado_app_data }}'}},"
        " chat: {source: /y, server_names: [chat.example.com], data: /srv/chat, settings: {DATA: '{{ tornado_app_data }}'}}}"
    )

    for one in site.values():
        one["source"] = trust_as_template(one["source"])
        one["settings"]["DATA"] = trust_as_template(one["settings"]["DATA"])
    board, chat = inputs(site, "board"), inputs(site, "chat")
    assert board["tornado_app_name"] == board["nginx_app_name"] == "board"
    assert board["tornado_app_declared_in"] == "site_apps.board"
    assert board["tornado_app_source"].endswith("/inventory/production/x")
    assert board["tornado_app_settings"] == {"DATA": "/var/lib/board"}
    assert chat["tornado_app_settings"] == {"DATA": "/srv/chat"}, "each has its own"
    assert chat["tornado_app_root"] == "/opt/chat"
    # nothing of the one that was selected before stays
    assert set(board) == set(chat)
    assert board["nginx_loopback_names"] == ["localhost", "127.0.0.1", "[::1]"]
    assert chat["nginx_loopback_names"] == [], "who asks without a name is the first one's"
    assert board["tornado_app_hosts"] == ["app1", "app2"]


def test_a_name_of_loopback_is_the_applications_that_has_it() -> None:
    site = {"board": BOARD, "chat": CHAT | {"server_names": ["localhost"]}}
    assert inputs(site, "board")["nginx_loopback_names"] == ["127.0.0.1", "[::1]"]


def test_an_application_is_on_the_hosts_of_its_group() -> None:
    site = {"board": BOARD, "chat": CHAT | {"hosts": "workers"}}
    names = "query('eyewall.tornado.apps')"
    assert evaluate(names, **applications(site)) == ["board"]
    assert evaluate(names, **applications(site, inventory_hostname="app2")) == ["board", "chat"]
    assert evaluate(names, **applications(site, inventory_hostname="app2", app="chat")) == ["chat"]
    assert evaluate(names, **applications(site, app="chat")) == []
    assert inputs(site, "chat", inventory_hostname="app2")["tornado_app_hosts"] == ["app2"]
    some = evaluate("query('eyewall.tornado.apps', 'health_path', 'user')", **applications(site))
    assert some == [
        {"name": "board", "hosts": ["app1", "app2"], "health_path": "/", "user": "board"},
        {"name": "chat", "hosts": ["app2"], "health_path": "/", "user": "chat"},
    ]


def test_balancers_know_every_application() -> None:
    site = {"board": BOARD | {"static": "board/static"}, "chat": CHAT | {"hosts": "workers", "health_path": "/up"}}
    hostvars = {host: {"site_server": f"{host}:80"} for host in GROUPS["app"]}
    board, chat = evaluate("haproxy_applications", **applications(site, inventory_hostname="lb1", hostvars=hostvars))
    assert [server["name"] for server in board["servers"]] == ["app1", "app2"]
    assert chat["servers"] == [{"name": "app2", "address": "app2:80"}]
    assert (board["static_paths"][0], chat["static_paths"]) == ("/static/", [])
    assert (board["health_host"], chat["health_host"], chat["health_path"]) == (
        "www.example.com",
        "chat.example.com",
        "/up",
    )


def test_what_the_host_has_to_wait_for_is_the_longest_of_its_applications() -> None:
    site = {"board": BOARD | {"drain_timeout": 40}, "chat": CHAT | {"drain_timeout": 5}}
    known = applications(site)
    assert evaluate("supervisord_stop_timeout | int - supervisord_stop_delay | int", **known) == 60
    assert evaluate("open_files_users", **known) == ["board", "chat"]
    nothing = applications({"chat": CHAT | {"hosts": "workers"}})
    assert evaluate("supervisord_stop_timeout | int - supervisord_stop_delay | int", **nothing) == 20, (
        "a host without any"
    )
