"""A misspelt variable stops the play with a sentence that says where it stands and what was meant."""

import difflib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from eyewall_support import REPOSITORY, ROLE_NAMES, load_python, options_of

action = load_python(REPOSITORY / "plugins" / "action" / "known_variables.py", "known_variables")
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
    known = action.role_inputs()
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
    assert action.role_inputs() == {role: set(options_of(role)) for role in ROLE_NAMES}


def test_a_typo_stops_its_host_and_is_named_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "wrong.yml").write_text(
        "---\nnginx_port: 80\nnginx_kepalive_timeout: 70\ntornado_app_version: 1.10\n"
    )
    (tmp_path / "host_vars" / "right.yml").write_text("---\nnginx_port: 80\nopen_files_limit: 2048\nmy_own: 1\n")
    (tmp_path / "hosts.yml").write_text("all:\n  vars: {ansible_connection: local}\n  hosts: {wrong: , right: }\n")
    (tmp_path / "play.yml").write_text(
        "- hosts: all\n  gather_facts: false\n  tasks:\n    - name: Refuse\n      known_variables:\n"
    )
    settings = {
        "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "tmp"),
    }
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "hosts.yml", "play.yml"],
        env={**os.environ, **settings, "ANSIBLE_NOCOLOR": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 2, said
    sentence = (
        f"{tmp_path}/host_vars/wrong.yml:3: nginx_kepalive_timeout is not a variable of the role nginx; "
        "did you mean nginx_keepalive_timeout? Allowed: see roles/nginx/README.md."
    )
    place = f"{tmp_path}/host_vars/wrong.yml:4"
    changed = f"{place}: tornado_app_version: got a number (1.1); expected a string. Put the value in quotes."
    # the text may be wrapped
    for wanted in (sentence, changed):
        assert "".join(wanted.split()) in "".join(said.split())
    recap = {line.split()[0]: line for line in done.stdout.splitlines() if " failed=" in line}
    assert "failed=1" in recap["wrong"]
    assert "ok=1" in recap["right"]
    assert "failed=0" in recap["right"]
