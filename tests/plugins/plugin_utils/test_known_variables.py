"""A misspelt variable stops the play with a sentence that says where it stands and what was meant."""

import difflib
from typing import Any

import pytest
import yaml
from support.product import ROLE_NAMES, ROLES, load_yaml, options_of, plugin

action = plugin("plugin_utils", "known_variables")
INPUTS = {
    "nginx": {"nginx_port", "nginx_server_name"},
    "tornado_app": {"tornado_app_port", "tornado_app_processes"},
}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nginx_port", []),
        ("nginx_prot", [("nginx_prot", "nginx", "nginx_port")]),
        ("tornado_app_process", [("tornado_app_process", "tornado_app", "tornado_app_processes")]),
        ("tornado_app_zzzzzzzzzzzzzzzzzzzzzzzzzz", [("tornado_app_zzzzzzzzzzzzzzzzzzzzzzzzzz", "tornado_app", None)]),
        # other people's roles have variables, too
        ("nginx_qqqqqqqq", []),
        ("nginx_server_tokens", []),
        ("__nginx_packages", []),
        ("site_operating_systems", []),
        ("ansible_host", []),
        ("nginx", []),
    ],
)
def test_unknown_variables(name: str, found: list[tuple[str, str, str | None]]) -> None:
    assert action.unknown_variables([name], INPUTS) == found


@pytest.mark.parametrize(
    ("written", "text", "changed"),
    [
        ("1.10", True, "a number (1.1)"),
        ("1.10", False, None),
        ("[-m, app, 1.10]", True, "a number (1.1)"),
        ("yes", True, "true or false (true)"),
        ("[on]", True, "true or false (true)"),
        ("2026-11-26T09:00:00Z", True, "a date"),
        ("{SINCE: 2026-11-26T09:00:00Z}", False, "a date"),
        ("{KEY: !!binary aGk=}", False, "binary data"),
        ("4", True, None),
        ("'1.10'", True, None),
        ("{RATE: 1.10}", False, None),
    ],
)
def test_what_yaml_changed(written: str, text: bool, changed: str | None) -> None:
    assert action.changed_by_yaml(yaml.safe_load(written), text) == changed


def test_a_slip_of_the_finger_is_a_typo_in_every_variable() -> None:
    known = action.role_options()
    for role, names in known.items():
        for name in names:
            for at in range(len(role) + 1, len(name) - 1):
                for slip in (
                    name[:at] + name[at + 1 :],
                    name[:at] + name[at + 1] + name[at] + name[at + 2 :],
                    f"{name[:at]}x{name[at + 1 :]}",
                    f"{name[:at]}x{name[at:]}",
                ):
                    ratio = difflib.SequenceMatcher(None, slip, name).ratio()
                    assert slip in names or ratio >= action.NEAR, f"{slip} for {name} of {role}: {ratio}"


def test_inputs_are_those_of_argument_specs() -> None:
    assert {role: set(taken) for role, taken in action.role_options().items()} == {
        role: set(options_of(role)) for role in ROLE_NAMES
    }


@pytest.mark.parametrize(
    ("written", "option", "wrong"),
    [
        ("www.example.com", {"type": "list"}, "'www.example.com'; expected a list, as in [one, two]"),
        ("25%", {"type": "list", "elements": "str"}, "'25%'; expected a list, as in [one, two]"),
        ("2", {"type": "list"}, "2; expected a list, as in [one, two]"),
        ("[[a]]", {"type": "list", "elements": "str"}, "a list with a list; expected a string"),
        ("[8000, x]", {"type": "list", "elements": "int"}, "a list with 'x'; expected a whole number"),
        ("[a]", {"type": "dict"}, "a list; expected a mapping, as in {NAME: value}"),
        ("A=1", {"type": "dict"}, "'A=1'; expected a mapping, as in {NAME: value}"),
        ("hunter2", {"type": "dict", "no_log": True}, "a str; expected a mapping, as in {NAME: value}"),
        ("80a", {"type": "int"}, "'80a'; expected a whole number"),
        ("true", {"type": "int"}, "True; expected a whole number"),
        ("1.5", {"type": "int"}, "1.5; expected a whole number"),
        ("soon", {"type": "float"}, "'soon'; expected a number"),
        ("maybe", {"type": "bool"}, "'maybe'; expected true or false"),
        ("{a: 1}", {"type": "str"}, "a mapping; expected a string"),
        ("wsgi", {"type": "str", "choices": ["tornado", "gunicorn"]}, "'wsgi'; expected tornado or gunicorn"),
        ("", {"type": "path"}, "nothing; expected a path"),
        ("", {}, "nothing; expected a string"),
        ("[a.example.com, '_']", {"type": "list", "elements": "str"}, None),
        ("{A: 1}", {"type": "dict"}, None),
        ("'60'", {"type": "int"}, None),  # as in -e tornado_app_drain_timeout=60
        ("-1", {"type": "int"}, None),
        ("0.5", {"type": "float"}, None),
        ("'yes'", {"type": "bool"}, None),
        ("80", {"type": "str"}, None),
        ("'{{ groups.app }}'", {"type": "list"}, None),
        ("['{{ port }}']", {"type": "list", "elements": "int"}, None),
    ],
)
def test_values_of_another_form(written: str, option: dict[str, Any], wrong: str | None) -> None:
    assert action.mistaken_form(yaml.safe_load(written), option) == wrong


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_defaults_have_their_form(role: str) -> None:
    options = options_of(role)
    for name, value in load_yaml(ROLES / role / "defaults" / "main.yml").items():
        assert action.mistaken_form(value, options[name]) is None, name
