"""The open-file limit of a service is written for its next start and raised in what runs, never lowered."""

import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.product import load_module, run_module

DROP_IN = "[Service]\nLimitNOFILE=600\n"
SOFT, HARD = 400, 800


@pytest.fixture(scope="module")
def service() -> ModuleType:
    return load_module("open_files_service")


@pytest.fixture
def process() -> Iterator[int]:
    """Return a process with a limit of its own, below every one that this test run may have."""
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE) as running:
        resource.prlimit(running.pid, resource.RLIMIT_NOFILE, (SOFT, HARD))
        yield running.pid
        running.kill()


@pytest.fixture
def run(
    service: ModuleType,
    process: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., dict[str, Any]]:
    """Run the module for one service of one process, without systemd; its commands are in the result."""
    (tmp_path / "board.service.d").mkdir()
    monkeypatch.setattr(service, "UNITS", tmp_path)
    monkeypatch.setattr(service, "running", lambda _module, name: [process] if name == "board" else [])

    def module(limit: int, *, check: bool = False) -> dict[str, Any]:
        commands: list[list[str]] = []
        monkeypatch.setattr(
            service.AnsibleModule, "run_command", lambda _, command, **_options: commands.append(command)
        )
        arguments = {"services": ["board", "not-there-yet"], "limit": limit, "drop_in": DROP_IN}
        return run_module(service, capsys, check=check, **arguments) | {"commands": commands}

    return module


def test_what_is_in_force_is_two_numbers(service: ModuleType, process: int) -> None:
    assert service.in_force(process) == (SOFT, HARD) == resource.prlimit(process, resource.RLIMIT_NOFILE)
    assert all(type(number) is int for number in service.in_force(process))


def test_unlimited_is_more_than_any_number(service: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "Limit      Soft Limit  Hard Limit  Units\nMax open files  1024  unlimited  files\nMax locks  1  2  locks\n"
    monkeypatch.setattr(Path, "read_text", lambda _path: text)
    assert service.in_force(1) == (1024, 2**63 - 1)


@pytest.mark.parametrize(
    ("limit", "after"),
    [(SOFT - 1, (SOFT, HARD)), (SOFT, (SOFT, HARD)), (600, (600, HARD)), (HARD, (HARD, HARD))],
    ids=["has more", "has it", "soft is raised", "soft is raised to hard"],
)
def test_a_running_process_is_raised_and_never_lowered(
    service: ModuleType, process: int, run: Callable[..., dict[str, Any]], limit: int, after: tuple[int, int]
) -> None:
    result = run(limit)
    assert service.in_force(process) == after
    line = f"board PID {process}: {after[0]} soft, {after[1]} hard\n"
    assert (line in result["diff"]["after"]) == (after != (SOFT, HARD))
    assert run(limit)["changed"] is False


def test_units_are_read_anew_once_their_text_changed(
    service: ModuleType, run: Callable[..., dict[str, Any]], process: int
) -> None:
    reload = ["systemctl", "daemon-reload"]
    files = [service.UNITS / f"{name}.service.d" / "eyewall-open-files.conf" for name in ("board", "not-there-yet")]
    result = run(600, check=True)
    assert (result["changed"], result["commands"]) == (True, [])
    assert not any(file.exists() for file in files)
    assert service.in_force(process) == (SOFT, HARD)
    assert run(600)["commands"] == [reload]
    assert [file.read_text() for file in files] == [DROP_IN, DROP_IN]
    # a process with less is no reason to read units
    result = run(700)
    assert (result["changed"], result["commands"]) == (True, [])


def test_a_host_that_lets_nobody_raise_it_says_what_to_do(
    service: ModuleType, run: Callable[..., dict[str, Any]], process: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(service.resource, "prlimit", refuse)
    message = run(HARD + 1)["msg"]
    assert message.startswith(
        f"board (PID {process}) has {SOFT} open files and at most {HARD}; this host does not let "
    )
    assert f"give it {HARD + 1} while it runs" in message
