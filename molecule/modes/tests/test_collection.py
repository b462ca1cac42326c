"""The collection eyewall.tornado, installed from a tarball without a network into a project of three files."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
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


def tarball(tree: Path, place: Path) -> Path:
    """Build the collection that a tree is."""
    place.mkdir()
    run(tree, "ansible-galaxy", "collection", "build", "--output-path", str(place))
    (built,) = place.glob("eyewall-tornado-*.tar.gz")
    return built


def tree_before(place: Path, today: Path) -> Path:
    """Make the tree of the last tag; where there is none, today's with another version and another runner."""
    place.mkdir()
    tags = run(REPOSITORY, "git", "tag", "--list", "v*", "--no-contains", "HEAD", "--sort=-version:refname").split()
    if tags:
        archive = place.with_suffix(".tar")
        run(REPOSITORY, "git", "archive", f"--output={archive}", tags[0])
        run(place, "tar", "--extract", "--file", str(archive))
        return place
    run(place, "tar", "--extract", "--file", str(today))
    for made in ("MANIFEST.json", "FILES.json"):
        (place / made).unlink()
    shutil.copy(REPOSITORY / "galaxy.yml", place)
    for name, line in (("galaxy.yml", "version: {}"), ("runner/src/eyewall/__init__.py", '__version__ = "{}"')):
        text = (place / name).read_text(encoding="utf-8")
        assert line.format("0.1.0") in text
        (place / name).write_text(text.replace(line.format("0.1.0"), line.format("0.0.9")), encoding="utf-8")
    return place


def install(project: Path, built: Path) -> str:
    """Install a tarball as docs/upgrading.md says; the version that is there then."""
    words = ("install", "--offline", "--force", "--collections-path", "collections", str(built))
    run(project, "ansible-galaxy", "collection", *words)
    manifest = project / "collections" / "ansible_collections" / "eyewall" / "tornado" / "MANIFEST.json"
    return str(json.loads(manifest.read_text(encoding="utf-8"))["collection_info"]["version"])


@pytest.fixture(scope="module")
def today(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tarball(REPOSITORY, tmp_path_factory.mktemp("today") / "built")


@pytest.fixture
def project(fleet: Fleet, tmp_path: Path) -> Path:
    """Make an empty project: a configuration, and an inventory with one host."""
    place = tmp_path / "project"
    place.mkdir()
    (place / "ansible.cfg").write_text(SETTINGS)
    inventory = yaml.safe_load(fleet.inventory.read_text(encoding="utf-8"))
    host = inventory["testapp"]["hosts"]["app1"]
    variables = {
        "ansible_host": "127.0.0.1",
        "ansible_port": host["ansible_port"],
        "ansible_user": "deploy",
        "ansible_ssh_private_key_file": str(REPOSITORY / ".local/ssh/id_ed25519"),
        "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        "supervisord_sandbox": host["supervisord_sandbox"],
        "open_files_limit": int(fleet.sh("app1", "ulimit -Hn")),
        "site_apps": {
            "testapp": {
                "source": fleet.release("1.0.collection")["tornado_app_source"],
                "factory": "testapp:make_app",
                "static": "testapp/static",
                "health_path": "/health",
                "processes": 2,
                "denied_paths": inventory["all"]["vars"]["testapp_denied_paths"],
            }
        },
    }
    (place / "hosts.yml").write_text(json.dumps({"app": {"hosts": {"app1": variables}}}))
    return place


def test_a_project_of_three_files_deploys_with_it(fleet: Fleet, project: Path, today: Path) -> None:
    deploy = ("ansible-playbook", "eyewall.tornado.deploy", "-e", "tornado_app_version=1.0.collection")
    install(project, today)
    installed = files_below(project / "collections")
    before = fleet.stand("app1")
    with asking(fleet, ("GET", "/health"), ("POST", "/echo")) as clients:
        run(project, *deploy)
    after = fleet.stand("app1")
    assert after.release == "1.0.collection" != before.release
    for client in clients:
        assert client.lost == []
        assert client.answered > 20
    # what was built is the project's, and the collection is as it was installed
    assert {path.name for path in project.iterdir()} == {".build", "ansible.cfg", "collections", "hosts.yml"}
    assert files_below(project / "collections") == installed
    assert "1.0.collection is on app1 already" in run(project, *deploy)


def test_a_site_takes_a_newer_version_and_loses_no_request(
    fleet: Fleet, project: Path, today: Path, tmp_path: Path
) -> None:
    """From the tarball before to today's, as docs/upgrading.md says, and the release back that the older one made."""
    older = install(project, tarball(tree_before(tmp_path / "before", today), tmp_path / "built"))
    run(project, "ansible-playbook", "eyewall.tornado.site")
    before = fleet.stand("app1")
    with asking(fleet, ("GET", "/health"), ("POST", "/echo")) as clients:
        newer = install(project, today)
        run(project, "ansible-playbook", "eyewall.tornado.site")
        after = fleet.stand("app1")
        again = run(project, "ansible-playbook", "eyewall.tornado.site")
        run(project, "ansible-playbook", "eyewall.tornado.rollback")
        back = fleet.stand("app1")
    assert older != newer
    assert after.generation != before.generation == back.generation
    assert " changed=0 " in again.rpartition("PLAY RECAP")[2]
    for client in clients:
        assert client.lost == []
        assert client.answered > 200
