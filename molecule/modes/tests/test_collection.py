"""The collection eyewall.tornado, installed from a tarball without a network into a project of three files."""

import json
import os
import subprocess
from pathlib import Path

import yaml
from support import REPOSITORY
from support.fleet import Fleet
from support.modes_steps import asking

SETTINGS = """
[defaults]
collections_path = collections
inventory = hosts.yml
interpreter_python = /usr/bin/python3
"""


def run(place: Path, *words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ANSIBLE_", "MOLECULE_"))}
    done = subprocess.run(
        words,
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def files_below(place: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime for path in place.rglob("*") if path.is_file()}


def test_a_project_of_three_files_deploys_with_it(fleet: Fleet, tmp_path: Path) -> None:
    run(REPOSITORY, "ansible-galaxy", "collection", "build", "--output-path", str(tmp_path))
    (tarball,) = tmp_path.glob("eyewall-tornado-*.tar.gz")
    project = tmp_path / "project"
    project.mkdir()
    (project / "ansible.cfg").write_text(SETTINGS)
    run(
        project,
        "ansible-galaxy",
        "collection",
        "install",
        "--offline",
        "--collections-path",
        "collections",
        str(tarball),
    )
    installed = files_below(project / "collections")
    host = yaml.safe_load(fleet.inventory.read_text(encoding="utf-8"))["testapp"]["hosts"]["app1"]
    variables = {
        "ansible_host": "127.0.0.1",
        "ansible_port": host["ansible_port"],
        "ansible_user": "deploy",
        "ansible_ssh_private_key_file": str(REPOSITORY / ".local/ssh/id_ed25519"),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        "open_files_limit": int(fleet.sh("app1", "ulimit -Hn")),
        "tornado_app_name": "testapp",
        "tornado_app_factory": "testapp:make_app",
        "tornado_app_static": "testapp/static",
        "tornado_app_health_path": "/health",
        "tornado_app_processes": 2,
        **fleet.release("1.0.collection"),
    }
    (project / "hosts.yml").write_text(json.dumps({"app": {"hosts": {"app1": variables}}}))
    before = fleet.stand("app1")
    with asking(fleet, ("GET", "/health"), ("POST", "/echo")) as clients:
        run(project, "ansible-playbook", "eyewall.tornado.deploy")
    after = fleet.stand("app1")
    assert after.release == "1.0.collection" != before.release
    for client in clients:
        assert client.lost == []
        assert client.answered > 20
    # what was built is the project's, and the collection is as it was installed
    assert {path.name for path in project.iterdir()} == {".build", "ansible.cfg", "collections", "hosts.yml"}
    assert files_below(project / "collections") == installed
    assert "1.0.collection is on app1 already" in run(project, "ansible-playbook", "eyewall.tornado.deploy")
