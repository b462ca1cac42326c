"""What is somebody else's on a host is not taken over: whole files, and ports."""

import re
import shutil
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.product import ROLES, load_yaml, plugin, render, run_module

module = plugin("modules", "refuse_foreign")


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run the module; what it says, nothing where it passes."""

    def run(**given: Any) -> str:
        result = run_module(module, capsys, **given)
        assert result.get("failed") or result["changed"] is False
        return str(result.get("msg", ""))

    return run


def conffile() -> Path:
    """A file of this machine that is as its package brought it."""
    said = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Conffiles}\n"], capture_output=True, text=True, check=True
    ).stdout
    paths = (Path(path) for path in re.findall(r"^ (/etc/\S+) [0-9a-f]{32}$", said, re.MULTILINE))
    return next(path for path in paths if path.is_file() and module.as_packaged(path, said))


def test_a_file_is_free_where_it_is_not_there_packaged_or_ours(refused: Callable[..., str], tmp_path: Path) -> None:
    ours = tmp_path / "ours.conf"
    ours.write_text("# Ansible managed\n# what the role says in it\n")
    files = {str(tmp_path / "none.conf"): "x", str(conffile()): "is not in it", str(ours): "what the role says"}
    assert refused(files=files) == ""


def test_a_file_of_somebody_else_is_named(refused: Callable[..., str], tmp_path: Path) -> None:
    theirs, claim = tmp_path / "nginx.conf", tmp_path / "nginx.service.d" / "eyewall.conf"
    theirs.write_text("# Ansible managed\nevents {}\n")
    files = {str(theirs): "Tornado's guide"}
    message = refused(files=files, claim=str(tmp_path / "*.service.d" / "eyewall.conf"))
    assert message.startswith(f"{theirs}: got a file on {socket.gethostname()} that somebody wrote; expected none, or ")
    # where the role was before, a file that was damaged or edited is written again
    claim.parent.mkdir()
    claim.touch()
    assert refused(files=files, claim=str(tmp_path / "*.service.d" / "eyewall.conf")) == ""


def test_a_changed_conffile_is_somebodys(tmp_path: Path) -> None:
    said = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${Conffiles}\n"], capture_output=True, text=True, check=True
    ).stdout
    path = conffile()
    changed = tmp_path / "changed"
    changed.write_bytes(path.read_bytes() + b"# and a line\n")
    assert module.as_packaged(path, said)
    assert not module.as_packaged(changed, said.replace(str(path), str(changed)))


@pytest.mark.skipif(not shutil.which("ss"), reason="hosts have ss, as Ansible's facts need its package")
def test_a_port_that_somebody_has_is_named_with_its_process(refused: Callable[..., str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        message = refused(ports={"nginx_port": port}, services=["nginx.service"])
        assert re.match(rf"nginx_port: got {port}, which \S+ \(PID \d+\) has on ", message), message
    assert refused(ports={"nginx_port": port}, services=["nginx.service"]) == ""


def test_a_port_of_the_roles_own_service_is_free() -> None:
    said = 'LISTEN 0 511 0.0.0.0:80 0.0.0.0:* users:(("nginx",pid=12,fd=6),("nginx",pid=7,fd=6))'
    assert module.holders(said) == [("nginx", 12), ("nginx", 7)]
    assert not module.is_of(1, ["nginx.service"])


# /etc/logrotate.d/nginx is written from etc/logrotate.d/nginx.j2: templates lie as their target paths do.
@pytest.mark.parametrize("role", ["nginx", "haproxy", "supervisord", "open_files"])
def test_each_role_knows_the_files_that_it_writes_whole(role: str) -> None:
    (asked,) = [
        task["eyewall.tornado.refuse_foreign"]
        for task in load_yaml(ROLES / role / "tasks" / "preflight.yml")
        if "eyewall.tornado.refuse_foreign" in task
    ]
    written = {
        f"/{path.relative_to(ROLES / role / 'templates')}".removesuffix(".j2")
        for path in (ROLES / role / "templates").rglob("*.j2")
    }
    # what has our name in its own is nobody else's
    assert {path for path in written if "eyewall" not in path} <= set(asked["files"])
    for path in written & set(asked["files"]):
        assert asked["files"][path] in render(f"{role}{path}.j2"), path
