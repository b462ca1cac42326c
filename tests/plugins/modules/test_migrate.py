"""A command that runs once before a deploy: as whom, with what, and what is said when it fails."""

import json
import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.product import load_module, run_module

SECRET = "correct horse\nbattery staple"
SETTINGS = {"BOARD_SECRET": SECRET, "BOARD_PART": "battery ", "BOARD_SHORT": "seven-7", "LANG": "C"}
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may run a command as another account (setuid(2))")


@pytest.fixture
def host(open_path: Path) -> Path:
    place, programs = open_path / "generations" / "g2", open_path / "releases" / "2.0" / "venv" / "bin"
    for directory in (place, programs, open_path / "data"):
        directory.mkdir(parents=True)
    manifest = {"generation": "g2", "release": "2.0", "ports": [8000]}
    (place / "generation.json").write_text(json.dumps(manifest))
    (place / "settings.json").write_text(json.dumps(SETTINGS))
    (programs / "python").symlink_to(sys.executable)
    return open_path


@pytest.fixture
def migrate(host: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run Python code with the module, as whoever runs the tests."""
    module = load_module("migrate")
    me = pwd.getpwuid(os.getuid()).pw_name

    def run(code: str, *, check: bool = False, **more: Any) -> dict[str, Any]:
        command = ["python", "-S", "-c", code]
        given = {"root": str(host), "generation": "g2", "command": command, "user": me, "data": str(host / "data")}
        return run_module(module, capsys, check=check, **{**given, "timeout": 20, **more})

    return run


def test_it_has_the_environment_of_the_release(host: Path, migrate: Any) -> None:
    code = "import json, os; json.dump(dict(os.environ) | {'cwd': os.getcwd()}, open('seen', 'w')); print('done')"
    result = migrate(code)
    assert result["changed"]
    assert result["stdout"] == "done"
    assert 0 < result["seconds"] < 20
    seen = json.loads((host / "data" / "seen").read_text())
    assert seen["cwd"] == seen["HOME"] == str(host / "data")
    assert seen["PATH"] == f"{host}/releases/2.0/venv/bin:/usr/local/bin:/usr/bin:/bin"
    assert seen["RELEASE"] == "2.0"
    assert {name: seen[name] for name in SETTINGS} == SETTINGS
    assert not {name for name in seen if name.startswith(("ANSIBLE", "PYTEST"))}, "nothing of Ansible's own"


def test_the_last_fifty_lines_are_returned(migrate: Any) -> None:
    assert migrate("for n in range(99): print(n)")["stdout"].split() == [str(n) for n in range(49, 99)]


def test_a_failure_shows_its_last_lines_and_no_secret(migrate: Any) -> None:
    code = "import os, sys; print(*range(30), sep='\\n'); sys.exit(os.environ['BOARD_SECRET'] + ' seven-7')"
    result = migrate(code)
    first, *lines = result["msg"].splitlines()
    assert "' ended with exit status 1; nothing was switched. The last lines that it printed:" in first
    assert lines == [*(str(n) for n in range(11, 30)), "******** seven-7"]
    assert "correct horse" not in json.dumps(result)


def test_a_secret_in_the_output_or_the_command_is_masked(migrate: Any) -> None:
    result = migrate("import os; print('a', os.environ['BOARD_SECRET'], os.environ['BOARD_PART'], 'b')")
    assert result["stdout"] == "a ******** ******** b"
    refused = migrate("", command=["false", "battery x"])
    assert "battery" not in refused["msg"]


# Starts a process that lives on without its parent, in a session of its own, as a daemon does; then goes on.
LEAVE_BEHIND = (
    "import os, time\n"
    "if not os.fork():\n    os.setsid()\n    if pid := os.fork():\n"
    "        open('part', 'w').write(str(pid)); os.rename('part', 'child'); os._exit(0)\n    time.sleep(300)\n"
    "while not os.path.exists('child'): time.sleep(0.01)\n"
    "print('halfway', flush=True)\n"
)


def test_a_command_that_takes_too_long_is_killed_with_all_that_it_started(host: Path, migrate: Any) -> None:
    begun = time.monotonic()
    result = migrate(f"{LEAVE_BEHIND}time.sleep(300)", timeout=2)
    assert time.monotonic() - begun < 100
    assert " was killed after 2 s (tornado_app_migrate_timeout); nothing was switched." in result["msg"]
    assert result["msg"].endswith("\nhalfway")
    assert not Path("/proc", (host / "data" / "child").read_text()).exists(), "its child lives on"


def test_a_process_that_it_leaves_behind_ends_with_it(host: Path, migrate: Any) -> None:
    begun = time.monotonic()
    assert migrate(LEAVE_BEHIND)["stdout"] == "halfway"
    assert time.monotonic() - begun < 100
    assert not Path("/proc", (host / "data" / "child").read_text()).exists(), "its child lives on"


def test_what_runs_beside_it_is_left_alone(migrate: Any) -> None:
    """Of this process's children, those are ended that the command has started."""
    with subprocess.Popen(["sleep", "300"]) as other:
        try:
            assert migrate(LEAVE_BEHIND)["stdout"] == "halfway"
            assert other.poll() is None
        finally:
            other.kill()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"command": ["no-such-program", "up"]}, "'no-such-program up' cannot be started ([Errno 2]"),
        ({"command": ["sh", "-c", "kill -9 $$"]}, " ended by SIGKILL; nothing was switched. It printed nothing."),
        ({"generation": "g9"}, "The generation g9 is not on this host."),
        ({"user": "no-such-account"}, " cannot be started (there is no account 'no-such-account')"),
    ],
)
def test_what_cannot_run_is_a_sentence(migrate: Any, more: dict[str, Any], said: str) -> None:
    result = migrate("", **more)
    assert result["failed"]
    assert said in result["msg"]


def test_check_mode_runs_nothing(host: Path, migrate: Any) -> None:
    assert migrate("open('ran', 'w')", check=True, generation="not there yet")["changed"]
    assert not (host / "data" / "ran").exists()


@as_root
def test_it_runs_as_the_account_with_its_groups_only(host: Path, migrate: Any) -> None:
    nobody = pwd.getpwnam("nobody")
    os.chown(host / "data", nobody.pw_uid, nobody.pw_gid)
    (host / "data").chmod(0o700)
    command = (
        "touch mine; id -u; id -g; id -G; umask; sed -n 's/^\\(NoNewPrivs\\|CapEff\\):\t//p' /proc/self/status; tty"
    )
    before = os.umask(0o077)
    try:
        said = migrate("", user="nobody", command=["sh", "-c", f"{command} || true"])["stdout"].splitlines()
    finally:
        os.umask(before)
    uid, gid = str(nobody.pw_uid), str(nobody.pw_gid)
    assert said == [uid, gid, gid, "0022", "0" * 16, "1", "not a tty"]
    assert (host / "data" / "mine").stat().st_uid == nobody.pw_uid
