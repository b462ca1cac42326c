"""A run that would do nothing, or a part, is refused in a sentence; from any directory, with any configuration of Ansible's."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY
from support.product import plugin

action = plugin("action", "check_run")
OURS = str(REPOSITORY / "ansible.cfg")
TYPO = (
    "nginx_prot: got a variable that the role nginx does not have; expected one of roles/nginx/README.md. "
    "Did you mean nginx_port?"
)


@pytest.mark.parametrize(
    ("option", "tags", "refused"),
    [
        ("--tags", ["all"], False),
        ("--tags", ["all", "x"], False),
        ("--skip-tags", [], False),
        ("--tags", ["nginx"], True),
        ("--skip-tags", ["all"], True),
        ("--skip-tags", ["untagged"], True),
        ("--skip-tags", ["molecule-notest", "notest"], False),
    ],
)
def test_tags(option: str, tags: list[str], refused: bool) -> None:
    said = action.mistaken_tags(option, tags)
    assert bool(said) == refused
    assert not refused or said.startswith(f"{option}: got {','.join(tags)}; expected none")


@pytest.mark.parametrize(
    ("version", "refused"), [("2.18.6", True), ("2.19.0", False), ("2.20.1rc1", False), ("3.0.0", False)]
)
def test_ansibles_version(version: str, refused: bool) -> None:
    said = action.mistaken_version(version)
    assert bool(said) == refused
    assert not refused or said.startswith("ansible-core: got 2.18.6; expected 2.19 or later")


def test_a_python_without_what_builds() -> None:
    assert action.mistaken_python() is None
    assert action.mistaken_python(("json", "nosuch", "neither")).startswith(
        f"{sys.executable}: got no nosuch and no neither; expected what `make tools` puts into .venv"
    )


@pytest.mark.parametrize(
    ("groups", "config", "said"),
    [
        ({"app": ["a1"], "all": ["a1"]}, None, None),
        ({"app": [], "balancers": [], "all": [], "ungrouped": []}, OURS, "got an empty group app; expected"),
        ({"apps": ["a1"], "balancers": [], "all": ["a1"]}, OURS, "got the groups apps, balancers; expected"),
        ({"apps": ["a1"], "all": ["a1"]}, OURS, "Did you mean app instead of apps?"),
        ({"all": ["a1"], "ungrouped": ["a1"]}, OURS, "got hosts without a group (a1); expected"),
        ({"all": [], "ungrouped": []}, None, f"Ansible read no ansible.cfg, and not that of {REPOSITORY}"),
        ({"all": [], "ungrouped": []}, "/etc/ansible/ansible.cfg", "Ansible read /etc/ansible/ansible.cfg, and not"),
    ],
)
def test_an_inventory_without_an_application_host(
    groups: dict[str, list[str]], config: str | None, said: str | None
) -> None:
    sentence = action.mistaken_groups(groups, ["inventory/mysite"], config)
    assert sentence is None if said is None else said in sentence
    if sentence:
        assert sentence.startswith("The inventory inventory/mysite: got ")
        assert ("Name one with -i" in sentence) == (config != OURS)


def run(cwd: Path, *words: str, **environment: str) -> tuple[int, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), *words],
        env={**clean, "ANSIBLE_LOCAL_TEMP": str(cwd / "tmp"), "ANSIBLE_NOCOLOR": "1", "COLUMNS": "1000", **environment},
        cwd=cwd, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    return done.returncode, " ".join((done.stdout + done.stderr).split())


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """Return a directory that everybody may write to, whose ansible.cfg Ansible does not read."""
    place = tmp_path / "elsewhere"
    place.mkdir()
    place.chmod(0o777)
    (place / "ansible.cfg").write_text("[defaults]\nroles_path = /nowhere\n")
    (place / "hosts.yml").write_text(
        "app:\n  hosts:\n    a1: {ansible_connection: local, nginx_prot: 80, site_apps: {board: {source: /src}}}\n"
    )
    return place


def test_it_runs_from_anywhere(elsewhere: Path) -> None:
    """Every role and plugin is found; what stops the run is the typo on its only host."""
    status, said = run(elsewhere, "-i", "hosts.yml", str(REPOSITORY / "site.yml"))
    assert status == 2, said
    assert f"hosts.yml:3: {TYPO}" in said


@pytest.mark.slow
def test_it_runs_with_another_configuration(elsewhere: Path) -> None:
    words = ("-i", "hosts.yml", str(REPOSITORY / "playbooks" / "rollback.yml"))
    status, said = run(elsewhere, *words, ANSIBLE_CONFIG=str(elsewhere / "ansible.cfg"))
    assert status == 2, said
    assert f"hosts.yml:3: {TYPO}" in said


@pytest.mark.slow
def test_tags_are_refused_before_anything(elsewhere: Path) -> None:
    status, said = run(elsewhere, "-i", "hosts.yml", str(REPOSITORY / "site.yml"), "--tags", "nginx")
    assert status == 2, said
    assert "--tags: got nginx; expected none" in said
    assert "nginx_prot" not in said, "no task comes before"


@pytest.mark.slow
def test_no_inventory_is_not_a_site_without_hosts(elsewhere: Path) -> None:
    status, said = run(elsewhere, str(REPOSITORY / "playbooks" / "status.yml"))
    assert status == 2, said
    assert f"Ansible read no ansible.cfg, and not that of {REPOSITORY}" in said


@pytest.mark.slow
def test_a_run_from_the_middle_does_nothing(elsewhere: Path) -> None:
    """What an application needs is included, and Ansible starts at what it has read before: an import, or a play's own task."""
    words = ["--start-at-task", "eyewall.tornado.tornado_app : converge | Find hosts that differ from the inventory"]
    _, said = run(elsewhere, "-i", "hosts.yml", str(REPOSITORY / "playbooks" / "deploy.yml"), *words)
    assert "No matching task" in said
    assert "TASK [" not in said


@pytest.fixture
def misspelt(tmp_path: Path) -> Path:
    """Return a directory with an inventory of two hosts, one of them with every kind of mistake."""
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "host_vars" / "wrong.yml").write_text(
        "---\nnginx_port: 80\nnginx_kepalive_timeout: 70\nnginx_workers: 1.10\n"
        "nginx_accept_from: 10.0.0.7\ntornado_app_batch: 3\nnginx_ipv6: maybe\n"
    )
    (tmp_path / "host_vars" / "right.yml").write_text("---\nnginx_port: 80\nopen_files_limit: 2048\nmy_own: 1\n")
    (tmp_path / "hosts.yml").write_text(
        "app:\n  vars: {ansible_connection: local, upgrades_tme: '3:00', site_apps: {board: {source: /src}}}\n"
        "  hosts: {wrong: , right: }\n"
    )
    return tmp_path


def test_a_misspelt_variable_stops_the_run_and_is_named_with_its_place(misspelt: Path) -> None:
    words = ("-i", "hosts.yml", str(REPOSITORY / "playbooks" / "rollback.yml"))
    status, said = run(misspelt, *words)
    assert status == 2, said
    place = f"{misspelt}/host_vars/wrong.yml"
    for sentence in (
        f"{place}:3: nginx_kepalive_timeout: got a variable that the role nginx does not have; expected one of "
        "roles/nginx/README.md. Did you mean nginx_keepalive_timeout?",
        f"{place}:4: nginx_workers: got a number (1.1); expected a string. Put the value in quotes.",
        f"{place}:5: nginx_accept_from: got '10.0.0.7'; expected a list, as in [one, two].",
        f"{place}:6: tornado_app_batch: got a variable that has another name now; expected tornado_app_parallel_processes.",
        f"{place}:7: nginx_ipv6: got 'maybe'; expected true or false.",
        f"{misspelt}/hosts.yml:2: upgrades_tme: got a variable that the role upgrades does not have",
    ):
        assert sentence in said
    assert said.count("upgrades_tme: got") == said.count("nginx_kepalive_timeout: got"), "it is said of two hosts"
    assert "Roll back" not in said, "no play comes after"


@pytest.mark.slow
@pytest.mark.parametrize("playbook", ["deploy", "status"])
def test_a_site_without_applications_is_refused_before_anything(tmp_path: Path, playbook: str) -> None:
    (tmp_path / "hosts.yml").write_text("app:\n  hosts: {a1: {ansible_connection: local}}\n")
    status, said = run(tmp_path, "-i", "hosts.yml", str(REPOSITORY / "playbooks" / f"{playbook}.yml"))
    assert status == 2, said
    assert (
        "site_apps: got nothing; expected the applications of the site by their names, as in site_apps: {board:" in said
    )


SITE = """\
app: {hosts: {a1: {ansible_connection: local}}}
all:
  vars:
    site_apps:
      board: {source: /src, factory: "board:make_app", server_names: [www.example.com]}
      chat: {source: /src, command: [chat], server_names: [chat.example.com]}
"""


@pytest.mark.parametrize(
    ("playbook", "words", "refused"),
    [
        ("deploy", ["-e", "app=baord"], "app: got 'baord'; expected one of board, chat. Did you mean board?"),
        (
            "deploy",
            ["-e", "tornado_app_version=1.4"],
            "tornado_app_version: got a value for 2 applications; expected -e app=… with it, one of board, chat.",
        ),
        ("rollback", [], "app: got nothing; expected -e app=… with one of board, chat."),
        ("remove_app", [], "app: got nothing; expected -e app=… with the name of an application to remove."),
        ("remove_app", ["-e", "app=../x"], "app: got '../x'; expected -e app=…"),
        (
            "remove_app",
            ["-e", "app=chat"],
            "app: got 'chat', which site_apps has on every host; expected an application that was taken out of it.",
        ),
    ],
    ids=str,
)
def test_what_the_command_line_says_of_applications(
    tmp_path: Path, playbook: str, words: list[str], refused: str
) -> None:
    (tmp_path / "hosts.yml").write_text(SITE)
    status, said = run(tmp_path, "-i", "hosts.yml", str(REPOSITORY / "playbooks" / f"{playbook}.yml"), *words)
    assert status == 2, said
    assert refused in said
    assert "PLAY RECAP" in said
    assert said.count("TASK [") == 1, "nothing comes after"


def test_an_inventory_of_before_is_told_how_it_is_written_now(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text(
        "app:\n  vars:\n    tornado_app_name: board\n    tornado_app_source: /src\n    nginx_server_name: [www.example.com]\n"
        "  hosts: {a1: {ansible_connection: local}}\n"
    )
    status, said = run(tmp_path, "-i", "hosts.yml", str(REPOSITORY / "playbooks" / "deploy.yml"))
    assert status == 2, said
    now = "in group_vars/all/apps.yml (docs/upgrading.md)."
    for line, name, key in (
        (3, "tornado_app_name", ""), (4, "tornado_app_source", ".source"), (5, "nginx_server_name", ".server_names"),
    ):  # fmt: skip
        said_of_it = f"{name}: got a variable of a site with one application; expected site_apps.board{key}, {now}"
        assert f"{tmp_path}/hosts.yml:{line}: {said_of_it}" in said


@pytest.mark.slow
def test_a_misspelt_variable_is_no_reason_to_show_no_status(misspelt: Path) -> None:
    _, said = run(misspelt, "-i", "hosts.yml", str(REPOSITORY / "playbooks" / "status.yml"))
    assert "got a variable that" not in said
    assert "Show every host" in said
