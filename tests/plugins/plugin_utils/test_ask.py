"""Before a module is sent, the host is asked in one command: it says what is expected only where there is nothing to do."""

import hashlib
import pwd
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.product import plugin

files, packages, service, account, refuse_foreign = (
    plugin("action", name) for name in ("files", "packages", "service", "account", "refuse_foreign")
)


def is_well(command: str, expected: list[str]) -> bool:
    """Ask as the action does, in a shell of this machine."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    return done.returncode == 0 and [line for line in done.stdout.splitlines() if line.strip()] == expected


def root() -> pwd.struct_passwd:
    return pwd.getpwuid(0)


def test_an_account() -> None:
    there = {"name": "root", "comment": root().pw_gecos, "home": root().pw_dir, "shell": root().pw_shell}
    assert is_well(*account.query(there))
    for part, value in (("comment", "somebody"), ("home", "/elsewhere"), ("shell", "/bin/none"), ("name", "no-such")):
        assert not is_well(*account.query({**there, part: value}))


def test_packages() -> None:
    assert is_well(*packages.query(["dpkg", "coreutils"]))
    assert not is_well(*packages.query(["dpkg", "no-such-package"]))


def test_a_claim(tmp_path: Path) -> None:
    (tmp_path / "nginx.service.d").mkdir()
    for claim in (f"{tmp_path}/nginx.service.d/eyewall.conf", f"{tmp_path}/*.service.d/eyewall.conf"):
        (tmp_path / "nginx.service.d" / "eyewall.conf").unlink(missing_ok=True)
        assert not is_well(*refuse_foreign.query(claim))
        (tmp_path / "nginx.service.d" / "eyewall.conf").touch()
        assert is_well(*refuse_foreign.query(claim))


@pytest.mark.parametrize(
    ("enabled", "active", "started", "well"),
    [
        ("enabled", "active", True, True),
        ("disabled", "active", True, False),
        ("enabled", "failed", True, False),
        ("enabled", "inactive", False, True),
        ("disabled", "inactive", False, False),
    ],
)
def test_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, enabled: str, active: str, started: bool, well: bool
) -> None:
    """Asked of a systemctl that answers as systemctl(1) says: the statuses are those of its manual."""
    script = tmp_path / "systemctl"
    script.write_text(
        "#!/bin/sh\n"
        f"[ $1 = is-enabled ] && {{ echo {enabled}; [ {enabled} = enabled ]; exit; }}\n"
        f"echo {active}; [ {active} = active ]\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert is_well(*service.query("x.service", started=started)) is well


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Write two files, and let whoever runs this be root for the question."""
    found = [
        {"path": str(tmp_path / "one 'x'"), "content": "one ü\n"},
        {"path": str(tmp_path / "two"), "content": "two", "mode": "0755"},
    ]
    for file in found:
        Path(file["path"]).write_text(file["content"], encoding="utf-8")
        Path(file["path"]).chmod(int(file.get("mode", "0644"), 8))
    return found


@pytest.mark.parametrize("spoil", ["", "content", "mode", "link", "directory", "missing"])
def test_files(written: list[dict[str, Any]], spoil: str) -> None:
    path = Path(written[0]["path"])
    match spoil:
        case "content":
            path.write_text("other")
        case "mode":
            path.chmod(0o600)
        case "link":
            path.rename(path.with_name("elsewhere"))
            path.symlink_to("elsewhere")
        case "directory":
            path.unlink()
            path.mkdir()
        case "missing":
            path.unlink()
    command, expected = files.query(written)
    owner = path.parent.stat()
    expected = [line.replace(" 0 0", f" {owner.st_uid} {owner.st_gid}") for line in expected]
    assert is_well(command, expected) is (spoil == "")


def test_units_are_asked_whether_systemd_has_read_them() -> None:
    place = "/etc/systemd/system"
    given = [
        {"path": f"{place}/nginx.service.d/eyewall.conf", "content": ""},
        {"path": f"{place}/nginx.service.d/eyewall-limits.conf", "content": ""},
        {"path": f"{place}/eyewall-tmp.service", "content": ""},
        {"path": "/etc/nginx/nginx.conf", "content": ""},
    ]
    command, expected = files.query(given)
    assert command.endswith("systemctl show --property=NeedDaemonReload --value eyewall-tmp.service nginx.service")
    digest = hashlib.sha256(b"").hexdigest()
    assert expected == ["81a4 0 0"] * 4 + [f"{digest}  {file['path']}" for file in given] + ["no"] * 2
