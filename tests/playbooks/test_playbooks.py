"""Ansible takes every playbook with every inventory."""

import os
import re
import subprocess

import pytest
from ansible.constants import config
from support import REPOSITORY
from support.ansible_runs import INVENTORIES, PLAYBOOKS, Runs
from support.product import load_yaml, variables


@pytest.mark.slow  # ansible-lint asks the same of one inventory
@pytest.mark.parametrize("inventory", INVENTORIES)
def test_syntax_of_every_playbook(runs: Runs, inventory: str) -> None:
    done = runs["playbooks", inventory].result()
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "[WARNING]" not in said
    for playbook in PLAYBOOKS:
        assert f"playbook: {playbook}" in said


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_inventory_can_be_read_and_has_application_hosts(runs: Runs, inventory: str) -> None:
    done = runs["graph", inventory].result()
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    graph = done.stdout
    assert "|--@app:" in graph
    found = re.findall(r"^  \|  \|--(\S+)$", graph[graph.index("|--@app:") :], re.MULTILINE)
    assert set(load_yaml(REPOSITORY / "inventory" / inventory / "hosts.yml")["app"]["hosts"]) <= set(found)
    assert found


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_inventory_has_a_file_of_variables_for_each_role_and_secrets_apart(inventory: str) -> None:
    variables = REPOSITORY / "inventory" / inventory / "group_vars" / "app"
    assert (variables / "tornado_app.yml").is_file()
    assert (variables / "vault.yml").is_file()
    secrets = load_yaml(variables / "tornado_app.yml").get("tornado_app_secrets", {})
    assert secrets
    for name, value in secrets.items():
        assert "{{ vault_" in value, f"{name} stands in the open"


def test_modules_write_nothing_into_a_hosts_journal() -> None:
    assert config.get_config_value("DEFAULT_NO_TARGET_SYSLOG") is False, "it is Ansible's default"
    assert config.get_config_value("DEFAULT_NO_TARGET_SYSLOG", variables=variables()) is True


def test_what_roles_write_is_on_the_disk_when_a_play_ends() -> None:
    """Ansible syncs nothing, so a power cut would leave empty files; test_power_cut.py sees that, and that this helps."""
    plays = [play for path in PLAYBOOKS for play in load_yaml(REPOSITORY / path) if play.get("roles")]
    assert len(plays) > 3, "the control: there are some"
    for play in plays:
        if play["roles"] != [{"role": "fleet"}]:
            after = [task.get("ansible.builtin.import_tasks") for task in play.get("post_tasks", [])]
            assert "tasks/on_disk.yml" in after, play["name"]


def test_each_host_has_the_same_turn_to_be_upgraded_in_every_run() -> None:
    """A set of names has another order in each process, unless it is told which (PYTHONHASHSEED)."""
    words = ["ansible", "app:balancers", "-i", "inventory/local", "--playbook-dir", "playbooks"]
    words += ["-m", "ansible.builtin.debug", "-a", "var=upgrades_turn"]
    turns = []
    for seed in ("1", "2"):
        done = subprocess.run(
            words,
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        turns.append(sorted(re.findall(r"(?m)^(\w+) .*\n\s+upgrades_turn: (\d)", done.stdout)))
    assert turns == [[("app1", "0"), ("app2", "1"), ("lb1", "2")]] * 2
