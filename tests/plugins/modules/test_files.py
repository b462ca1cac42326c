"""Configuration files are written in one step, all of a task's or none, and are on the disk then."""

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from support.product import helper, load_module, run_module

module = load_module("files")


@pytest.fixture(name="write")
def write_fixture(capsys: pytest.CaptureFixture[str]) -> Any:
    def write(*files: dict[str, str], check: bool = False) -> dict[str, Any]:
        return run_module(module, capsys, check=check, files=list(files))

    return write


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def test_files_are_written_with_their_directories_and_a_second_time_nothing_changes(write: Any, tmp_path: Path) -> None:
    one, two = tmp_path / "a.d" / "b.d" / "one.conf", tmp_path / "two"
    files = ({"path": str(one), "content": "one\n"}, {"path": str(two), "content": "two ü\n", "mode": "0755"})
    os.umask(0o077)
    first = write(*files)
    assert first["changed"] is True
    assert [(entry["before"], entry["after"], entry["before_header"]) for entry in first["diff"]] == [
        ("", "one\n", str(one)),
        ("", "two ü\n", str(two)),
    ]
    assert (one.read_text(), mode(one), mode(one.parent)) == ("one\n", 0o644, 0o755)
    assert (two.read_text(encoding="utf-8"), mode(two)) == ("two ü\n", 0o755)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.d", "b.d", "one.conf", "two"]
    inodes = {path: path.stat().st_ino for path in (one, two)}
    assert write(*files)["changed"] is False
    assert {path: path.stat().st_ino for path in (one, two)} == inodes


@pytest.mark.parametrize("spoil", ["content", "mode", "link"])
def test_what_somebody_changed_is_put_right(write: Any, tmp_path: Path, spoil: str) -> None:
    path, elsewhere = tmp_path / "one", tmp_path / "elsewhere"
    write({"path": str(path), "content": "one\n"})
    match spoil:
        case "content":
            path.write_text("two\n")
        case "mode":
            path.chmod(0o600)
        case "link":
            elsewhere.write_text("one\n")
            path.unlink()
            path.symlink_to(elsewhere)
    assert write({"path": str(path), "content": "one\n"})["changed"] is True
    assert (path.is_symlink(), path.read_text(), mode(path)) == (False, "one\n", 0o644)
    assert not elsewhere.exists() or elsewhere.read_text() == "one\n"


def test_check_mode_writes_and_validates_nothing(write: Any, tmp_path: Path) -> None:
    file = {"path": str(tmp_path / "no" / "such" / "one"), "content": "one\n", "validate": "/nowhere/at-all %s"}
    assert write(file, check=True)["changed"] is True
    assert list(tmp_path.iterdir()) == []


def test_one_that_is_wrong_leaves_all_as_they_were(write: Any, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    second.write_text("right\n")
    # the command sees the new text, in the directory of the file
    grep = "grep --quiet --fixed-strings right %s"
    files = ({"path": str(first), "content": "one\n"}, {"path": str(second), "content": "wrong\n", "validate": grep})
    said = write(*files)
    assert said["msg"] == f"{second}: got what 'grep' does not take; nothing was changed."
    assert second.read_text() == "right\n"
    assert [path.name for path in tmp_path.iterdir()] == ["second"]
    assert write(files[0], files[1] | {"content": "right or not\n"})["changed"] is True, "the control"


def test_a_place_that_cannot_be_written_is_named(write: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = write({"path": str(tmp_path / "file" / "one"), "content": "one\n"})["msg"]
    assert said == f"{tmp_path}/file/one: got 'Not a directory'; expected a file that can be written."


def test_a_directory_in_the_place_of_a_file_stays(write: Any, tmp_path: Path) -> None:
    path = tmp_path / "one"
    path.mkdir()
    (path / "inside").write_text("of somebody\n")
    said = write({"path": str(path), "content": "one\n"})["msg"]
    assert said == f"{path}: got 'Is a directory'; expected a file that can be written."
    assert (path / "inside").read_text() == "of somebody\n"


@pytest.mark.parametrize(
    ("changed", "said", "reloads"), [(True, "no", True), (False, "yes", True), (False, "no", False)]
)
def test_systemd_reads_units_again_that_have_changed_since_it_did(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Any, changed: bool, said: str, reloads: bool
) -> None:
    """Also in a run that finds the files as they should be: the one before may have been killed."""
    units = helper("units")
    monkeypatch.setattr(units, "UNITS", tmp_path / "system")
    asked = tmp_path / "asked"
    script = tmp_path / "bin" / "systemctl"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >>{asked}\necho {said}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:/usr/bin:/bin")
    path = tmp_path / "system" / "nginx.service.d" / "eyewall.conf"
    if not changed:
        path.parent.mkdir(parents=True)
        path.write_text("[Service]\n")
        path.chmod(0o644)
    result = write({"path": str(path), "content": "[Service]\n"})
    assert result["changed"] is changed
    question = [] if changed else ["show --property=NeedDaemonReload --value nginx.service"]
    assert asked.read_text().splitlines() == question + ["daemon-reload"] * reloads
