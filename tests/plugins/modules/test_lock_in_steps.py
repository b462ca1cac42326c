"""The lock of a host is taken by the step that installs or tests, before anything else, and given up by the handover."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.product import load_module, run_module
from support.supervised_host import UNCLOSED_CONNECTIONS, Host

pytestmark = UNCLOSED_CONNECTIONS

RUN = {"id": "run-1", "owner": "ada@desk", "controller": "desk", "pid": 4711, "pid_started": 99}
OTHER = RUN | {"id": "run-2", "owner": "bob@ci"}


def begin(host: Host, letter: str) -> dict[str, Any]:
    return {"wanted": host.wanted(letter)["generation"], "release": "1.0.0", "verb": "rollback", "expires": 600}


@pytest.fixture
def locked(host: Host, capsys: pytest.CaptureFixture[str]) -> Callable[[dict[str, Any]], None]:
    """Lock the host for a run, of which it runs generation a."""
    host.move(host.written("a"))

    def lock(run: dict[str, Any]) -> None:
        arguments = {"root": str(host.root), "state": "begun", "run": run, **begin(host, "b")}
        assert run_module(load_module("deploy_lock"), capsys, **arguments)["changed"] is True

    return lock


def journal(host: Host) -> list[dict[str, Any]]:
    file = host.root / "deploys.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


# ---- What takes it ----


def test_a_smoke_test_takes_it_and_says_what_to_go_back_to(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    old = host.written("a")
    host.move(old)
    for settings, fails in (({"ANSWERS": '{"/": 500}'}, True), ({}, False)):
        given = host.wanted("b" if fails else "c", settings=settings)
        result = run_module(host.modules.smoke_test, capsys, **given, run=RUN, lock=begin(host, "b"))
        assert bool(result.get("failed")) == fails
        # also of one that fails afterwards: the host has to give the lock back
        assert (result["begun"]["from"], result["begun"]["id"]) == (old["generation"], "run-1")
    assert json.loads((host.root / "deploy.json").read_text())["id"] == "run-1"


def test_who_is_refused_writes_nothing(
    host: Host, locked: Callable[[dict[str, Any]], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked(OTHER)
    files, events = sorted(host.root.rglob("*")), host.events()
    release = {
        "root": str(host.root), "release": "2.0", "digest": "abc", "environment": "e1", "bundle": str(tmp_path / "bundle.tar"),
        "python": "/usr/bin/python3", "user": "nobody", "data": "/", "timeout": 10,
    }  # fmt: skip
    for module, given in ((host.modules.smoke_test, host.wanted("b")), (load_module("release"), release)):
        result = run_module(module, capsys, **given, run=RUN, lock=begin(host, "b"))
        assert "bob@ci began the rollback of 1.0.0 here at" in result["msg"]
        assert result["lock"]["id"] == "run-2"
        assert "begun" not in result
    assert (sorted(host.root.rglob("*")), host.events()) == (files, events)


# ---- What gives it up ----


def hand_over(host: Host, capsys: pytest.CaptureFixture[str], **given: Any) -> dict[str, Any]:
    end = {"logs": str(host.root / "logs"), "keep": 2}
    return run_module(host.modules.generation, capsys, **host.written("b", **given), run=RUN, end=end)


def test_the_handover_that_is_the_last_step_records_the_change(
    host: Host, locked: Callable[[dict[str, Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    locked(RUN)
    assert hand_over(host, capsys)["recorded"] is True
    (record,) = journal(host)
    assert (record["outcome"], record["to"]) == ("succeeded", host.wanted("b")["generation"])
    assert not (host.root / "deploy.json").exists()


def test_one_that_fails_records_nothing(
    host: Host, locked: Callable[[dict[str, Any]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    locked(RUN)
    assert hand_over(host, capsys, settings={"MISBEHAVE": "exit at start"})["failed"] is True
    assert journal(host) == []
    assert (host.root / "deploy.json").exists()


@pytest.mark.parametrize("why", ["another's lock", "no lock", "a file that cannot be locked"])
def test_what_cannot_be_recorded_is_no_reason_to_go_back(
    host: Host, locked: Callable[[dict[str, Any]], None], capsys: pytest.CaptureFixture[str], why: str
) -> None:
    """The task of deploy_lock comes after it then, and tells."""
    if why != "no lock":
        locked(OTHER if why == "another's lock" else RUN)
    else:
        host.move(host.written("a"))
    if why == "a file that cannot be locked":
        (host.root / ".deploy.lock").unlink()
        (host.root / ".deploy.lock").mkdir()
    result = hand_over(host, capsys)
    assert (result["changed"], result["recorded"]) == (True, False)
    host.is_at(host.written("b"))
