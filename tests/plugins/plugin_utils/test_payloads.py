"""What is packed beside a run is what Ansible takes for the task."""

import os
from pathlib import Path

import pytest
from ansible import constants
from support.product import plugin

payloads = plugin("plugin_utils", "payloads")
NAMES = ["eyewall.tornado.release", "eyewall.tornado.handover"]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return where Ansible keeps the payloads of a run."""
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path))
    return tmp_path / "ansiballz_cache"


def packed(kept: Path) -> list[str]:
    return sorted(path.name.split("-")[0].rpartition(".")[2] for path in kept.iterdir() if path.suffix != ".lock")


def test_modules_are_packed_in_another_process(kept: Path) -> None:
    payloads.pack_beside(NAMES)
    pid, status = os.waitpid(-1, 0)
    assert pid != os.getpid()
    assert status == 0
    assert packed(kept) == ["handover", "release"]
    before = {path: path.stat().st_mtime_ns for path in kept.iterdir()}
    payloads.pack(NAMES[0])
    assert {path: path.stat().st_mtime_ns for path in kept.iterdir()} == before, "it was taken, and not made again"


def test_one_that_cannot_be_packed_is_left_to_its_task(kept: Path) -> None:
    payloads.pack_beside(["eyewall.tornado.no_such_module", *NAMES])
    assert os.waitpid(-1, 0)[1] == 0
    assert packed(kept) == ["handover", "release"]


def test_a_run_that_has_ended_gets_no_directory_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DEFAULT_LOCAL_TMP", str(tmp_path / "ended"))
    payloads.pack_beside(NAMES)
    assert os.waitpid(-1, 0)[1] == 0
    assert not (tmp_path / "ended").exists()


def test_no_process_for_it_is_no_reason_to_fail(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> int:
        raise BlockingIOError

    monkeypatch.setattr(os, "fork", full)
    payloads.pack_beside(NAMES)
    assert not kept.exists()
