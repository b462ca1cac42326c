"""Ansible takes every playbook with every inventory."""

import os
import re
import subprocess
from typing import Any

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
def test_inventory_has_its_applications_in_one_file_and_secrets_apart(inventory: str) -> None:
    variables = REPOSITORY / "inventory" / inventory / "group_vars" / "all"
    assert (variables / "vault.yml").is_file()
    secrets = [app.get("secrets", {}) for app in load_yaml(variables / "apps.yml")["site_apps"].values()]
    assert any(secrets)
    for name, value in (one for some in secrets for one in some.items()):
        assert "{{ vault_" in value, f"{name} stands in the open"


def test_modules_write_nothing_into_a_hosts_journal() -> None:
    assert config.get_config_value("DEFAULT_NO_TARGET_SYSLOG") is False, "it is Ansible's default"
    assert config.get_config_value("DEFAULT_NO_TARGET_SYSLOG", variables=variables()) is True


def test_what_roles_write_is_on_the_disk_when_a_play_ends() -> None:
    """Ansible syncs nothing, so a power cut would leave empty files; test_power_cut.py sees that, and that this helps."""
    plays = [play for path in PLAYBOOKS for play in map(whole, load_yaml(REPOSITORY / path)) if writes(play)]
    assert len(plays) > 5, "the control: there are some"
    for play in plays:
        after = [
            task.get("ansible.builtin.import_tasks") for task in [*play.get("tasks", []), *play.get("post_tasks", [])]
        ]
        assert {"tasks/on_disk.yml", "on_disk.yml"} & {*after}, play["name"]


def whole(play: dict[str, Any]) -> dict[str, Any]:
    """A play with the tasks of the files that it imports in their places."""
    tasks = [part for task in play.get("tasks", []) for part in imported(task)]
    return {**play, "tasks": tasks} if tasks else play


def imported(task: dict[str, Any]) -> list[dict[str, Any]]:
    path = task.get("ansible.builtin.import_tasks", "")
    return load_yaml(REPOSITORY / "playbooks" / path) if path.endswith("front_doors.yml") else [task]


def writes(play: dict[str, Any]) -> bool:
    """Whether a play has a role's files written; a deploy's are synced by the modules that write them."""
    roles = [task.get("ansible.builtin.import_role", {}).get("tasks_from", "main") for task in play.get("tasks", [])]
    roles = [
        entry for task, entry in zip(play.get("tasks", []), roles, strict=True) if "ansible.builtin.import_role" in task
    ]
    return (
        bool(play.get("roles")) or bool({"main", "configure", "install"} & {*roles}) or "Remove" in play.get("name", "")
    )


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
