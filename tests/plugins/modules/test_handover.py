"""The move from generation to generation, with a real supervisord and processes that do as they are told."""

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.product import run_module
from support.supervised_host import UNCLOSED_CONNECTIONS, Host, Modules, Poller, ask_port

pytestmark = UNCLOSED_CONNECTIONS


# ---- The move ----


def test_first_start_and_the_same_again(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    first = host.written("a", startsecs=60, parallel_processes=2)
    result = run_module(host.modules.generation, capsys, **first)
    assert result["changed"] is True
    assert [entry["process"] for entry in result["processes"]] == [
        f"{first['generation']}:{port}" for port in host.ports_of(first)
    ]
    assert all(set(entry) == {"process", "ready_seconds"} for entry in result["processes"]), "nothing was drained"
    # supervisord's own second is not waited for
    assert {info["statename"] for info in host.rpc.getAllProcessInfo()} == {"STARTING"}
    assert result["diff"] == {"before": "\n", "after": f"{first['generation']}\n"}
    assert result["surplus"] == []
    host.is_at(first)
    before = host.events()
    again = run_module(host.modules.generation, capsys, **first)
    assert again["changed"] is False, "a generation that was just started is not done"
    assert again["processes"] == []
    assert host.events() == before


def test_handover_port_by_port_without_a_lost_request(host: Host) -> None:
    old, new = host.written("a"), host.written("b")
    host.move(old)
    with Poller(host, host.ports_of(old)) as poller:
        mover = host.move(new)
        time.sleep(0.1)
    assert poller.failures == []
    first, second = host.ports_of(new)
    for port in (first, second):
        assert poller.saw(port) == [old["generation"], new["generation"]]
        assert len(poller.answers[port]) > 20
        assert host.when(new, port, "ready") < host.when(old, port, "leaving")
        assert set(mover.report[port]) == {"ready_seconds", "drained_seconds"}
    # one at a time: the next port's turn comes when the old process is gone
    assert host.when(old, first, "gone") < host.when(new, second, "ready")
    host.is_at(new)


def test_a_process_is_asked_to_drain_and_has_its_signal_when_it_has(host: Host) -> None:
    """A signal alone may never reach the runner; the control drains on its signal alone, and is there no longer than that."""
    for name, asked in (("a", "yes"), ("b", "no")):
        old = host.written(name, host.ports[:1], settings={"DRAIN": "0.5", "ASKED": asked})
        host.move(old)
        mover = host.move(host.written(f"{name}2", host.ports[:1]))
        assert mover.report[host.ports[0]]["drained_seconds"] >= 0.4
        assert mover.left_early == []
        host.when(old, host.ports[0], f"had its signal {'last' if asked == 'yes' else 'first'}")


def test_a_process_that_leaves_instead_of_draining_is_named(host: Host) -> None:
    # supervisord starts it again, and loses a signal that comes between its fork and its exec: then it kills it
    old = host.written("a", host.ports[:1], stopwaitsecs=1, settings={"ASKED": "leaves"})
    new = host.written("b", host.ports[:1])
    host.move(old)
    mover = host.move(new)
    assert mover.left_early == [f"{old['generation']}:{host.ports[0]}"]
    host.is_at(new)


@pytest.mark.slow
def test_without_overlap_the_old_process_is_gone_before_the_new_one_starts(host: Host) -> None:
    """For programs with a state file; also on the way back. The poller sees the interruption, which is meant."""
    old = host.written("a", host.ports[:1], overlap=False)
    new = host.written("b", host.ports[:1], overlap=False)
    bad = host.written("c", host.ports[:1], overlap=False, settings={"MISBEHAVE": "exit at start"})
    host.move(old)
    with Poller(host, host.ports[:1]) as poller:
        host.move(new)
    assert poller.failures
    assert host.when(old, host.ports[0], "gone") < host.when(new, host.ports[0], "ready")
    with pytest.raises(host.modules.root.Failure, match="does not find its database"):
        host.move(bad)
    events = [what for group, _, what in host.events() if group == new["generation"]]
    assert events == ["ready", "leaving", "gone", "ready"]
    host.is_at(new)


def test_the_poller_of_these_tests_sees_a_stop_before_a_start(host: Host) -> None:
    old, new = host.written("a"), host.written("b")
    mover = host.move(old)
    port = host.ports_of(old)[0]
    with Poller(host, [port]) as poller:
        naive = host.modules.generation.Mover(new)
        naive.add(new["generation"])
        mover.stop(old["generation"], [port])
        naive.start(new["generation"], [port])
        time.sleep(0.05)
    assert any("ConnectionRefused" in failure for failure in poller.failures)
    assert poller.saw(port) == [old["generation"], new["generation"]]


def test_how_long_each_process_took_to_leave(host: Host) -> None:
    first, second = host.ports[:2]
    old = host.written("a", settings={"DRAIN": "0.5", "DRAIN_PORT": str(first)})
    host.move(old)
    mover = host.move(host.written("b", parallel_processes=2))
    drained = [mover.report[port]["drained_seconds"] for port in (first, second)]
    assert 0.5 <= drained[0] < 2
    assert drained[1] < drained[0] - 0.2, "it did not take as long as the one beside it"


def test_a_batch_changes_hands_together(host: Host) -> None:
    old, new = host.written("a", parallel_processes=2), host.written("b", parallel_processes=2)
    host.move(old)
    host.move(new)
    first, second = host.ports_of(new)
    last_ready = max(host.when(new, first, "ready"), host.when(new, second, "ready"))
    assert last_ready < min(host.when(old, first, "leaving"), host.when(old, second, "leaving"))
    host.is_at(new)


@pytest.mark.parametrize(("before", "after"), [(3, 1), (1, 3)], ids=["fewer", "more"])
def test_another_number_of_ports(host: Host, before: int, after: int) -> None:
    old, new = host.written("a", host.ports[:before], parallel_processes=3), host.written("b", host.ports[:after])
    host.move(old)
    with Poller(host, host.ports[:1]) as poller:
        host.move(new)
    assert poller.failures == []
    host.is_at(new)
    for port in host.ports[after:]:
        with pytest.raises(ConnectionRefusedError):
            ask_port(port)


def test_other_ports(host: Host) -> None:
    old, new = host.written("a", host.ports[:2]), host.written("b", host.ports[2:])
    host.move(old)
    host.move(new)
    host.is_at(new)
    with pytest.raises(ConnectionRefusedError):
        ask_port(host.ports_of(old)[0])


def test_fewer_processes_keep_the_surplus_until_it_is_told_to_stop(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    old = host.written("a", host.ports, parallel_processes=4)
    keep = host.written("b", parallel_processes=2, surplus="keep")
    stop = keep | {"surplus": "stop"}
    wanted, surplus = host.ports[:2], host.ports[2:]
    names = [f"{old['generation']}:{port}" for port in surplus]
    both = {(keep["generation"], port) for port in wanted} | {(old["generation"], port) for port in surplus}
    host.move(old)

    with Poller(host, host.ports) as poller:
        result = run_module(host.modules.generation, capsys, **keep)
        time.sleep(0.1)
    assert poller.failures == []
    for port in wanted:
        assert poller.saw(port) == [old["generation"], keep["generation"]]
    for port in surplus:
        assert poller.saw(port) == [old["generation"]]
        assert ask_port(port) == old["generation"]
    assert (result["changed"], result["surplus"]) == (True, names)
    assert [entry["process"] for entry in result["processes"]] == [f"{keep['generation']}:{port}" for port in wanted]
    assert host.running() == both
    assert str((host.root / "current").readlink()) == f"generations/{keep['generation']}"
    assert host.modules.root.known_groups() == host.groups() == {old["generation"], keep["generation"]}

    # that is all there is to do for `keep`, and not for `stop`
    before = host.events()
    assert host.modules.generation.Mover(keep).is_done()
    assert not host.modules.generation.Mover(stop).is_done()
    again = run_module(host.modules.generation, capsys, **keep)
    assert (again["changed"], again["surplus"], again["processes"]) == (False, names, [])
    check = run_module(host.modules.generation, capsys, check=True, **stop)
    assert (check["changed"], check["surplus"]) == (True, names)
    assert host.events() == before
    assert host.running() == both

    with Poller(host, wanted) as poller:
        result = run_module(host.modules.generation, capsys, **stop)
    assert poller.failures == []
    assert (result["changed"], result["surplus"]) == (True, [])
    drained = {
        entry["process"]: entry["drained_seconds"] for entry in result["processes"] if "drained_seconds" in entry
    }
    assert list(drained) == names, "only those have left, and by their own name"
    assert set(host.events()[len(before) :]) == {
        (old["generation"], port, what) for port in surplus for what in ("leaving", "gone")
    }
    host.is_at(keep)
    for port in surplus:
        with pytest.raises(ConnectionRefusedError):
            ask_port(port)
    assert host.modules.generation.Mover(keep).is_done()
    assert host.modules.generation.Mover(stop).is_done()


def test_an_old_process_on_a_wanted_port_is_no_surplus(host: Host) -> None:
    old, keep = (
        host.written("a", host.ports[:2], parallel_processes=2),
        host.written("b", host.ports[:1], surplus="keep"),
    )
    first, second = host.ports_of(old)
    host.move(old)
    host.move(keep)
    assert host.modules.generation.Mover(keep).is_done()
    # as an interrupted way back leaves it
    abandoned = host.modules.generation.Mover(old)
    abandoned.start(old["generation"], [first])
    mover = host.modules.generation.Mover(keep)
    assert mover.surplus() == [f"{old['generation']}:{second}"]
    assert not mover.is_done(), "two generations answer on one port"
    mover.move()
    assert mover.is_done()
    assert host.running() == {(keep["generation"], first), (old["generation"], second)}
    assert ask_port(second) == old["generation"]


def test_what_is_kept_goes_with_the_next_move_that_has_its_ports(host: Host) -> None:
    first, second = (
        host.written("a", host.ports[:3], parallel_processes=3),
        host.written("b", host.ports[:1], surplus="keep"),
    )
    third = host.written("c", host.ports[:3], parallel_processes=3, surplus="keep")
    host.move(first)
    host.move(second)
    with Poller(host, host.ports[:3]) as poller:
        host.move(third)
    assert poller.failures == []
    host.is_at(third)


def test_a_process_that_does_not_leave_is_killed_and_the_move_goes_on(host: Host) -> None:
    old = host.written("a", host.ports[:1], stopwaitsecs=1, settings={"MISBEHAVE": "ignore SIGTERM"})
    new = host.written("b", host.ports[:1])
    host.move(old)
    mover = host.move(new)
    assert mover.report[host.ports[0]]["drained_seconds"] >= 0.9
    host.is_at(new)


# ---- Interruptions ----


@pytest.mark.parametrize("where", ["added", "started", "stopping", "moved but for the link"])
def test_the_same_command_finishes_what_was_interrupted(host: Host, where: str) -> None:
    old, new = host.written("a", settings={"DRAIN": "0.3"} if where == "stopping" else None), host.written("b")
    host.move(old)
    first = host.ports_of(new)[0]
    steps: list[tuple[str, Callable[[Any], object]]] = [
        ("added", lambda mover: mover.add(mover.generation)),
        ("started", lambda mover: mover.start(mover.generation, [first])),
        ("stopping", lambda mover: mover.rpc.stopProcess(f"{old['generation']}:{first}", False)),
    ]
    if where == "moved but for the link":
        steps[2:] = [
            ("", lambda mover: mover.start(mover.generation, host.ports_of(new))),
            (where, lambda mover: mover.stop(old["generation"], host.ports_of(old))),
        ]
    with Poller(host, host.ports_of(old)) as poller:
        abandoned = host.modules.generation.Mover(new)
        for name, step in steps:
            step(abandoned)
            if name == where:
                break
        assert abandoned.current == old["generation"], "what starts at boot is the old one until the end"
        host.move(new)
    assert poller.failures == []
    host.is_at(new)


def test_back_to_the_old_one_after_an_interruption(host: Host) -> None:
    old, new = host.written("a"), host.written("b")
    host.move(old)
    abandoned = host.modules.generation.Mover(new)
    abandoned.add(new["generation"])
    first = host.ports_of(new)[:1]
    abandoned.start(new["generation"], first)
    abandoned.stop(old["generation"], first)
    with Poller(host, host.ports_of(old)) as poller:
        host.move(old)
    assert poller.failures == []
    host.is_at(old)


def test_back_to_the_old_one_while_a_process_of_it_still_drains(host: Host) -> None:
    old, new = host.written("a", settings={"DRAIN": "0.5"}, start_timeout=3), host.written("b")
    host.move(old)
    abandoned = host.modules.generation.Mover(new)
    abandoned.add(new["generation"])
    first = host.ports_of(new)[0]
    abandoned.start(new["generation"], [first])
    abandoned.rpc.stopProcess(f"{old['generation']}:{first}", False)
    with Poller(host, host.ports_of(old)) as poller:
        host.move(old)
    assert poller.failures == []
    host.is_at(old)


def test_a_process_that_was_killed_is_started_by_the_same_command(host: Host) -> None:
    only = host.written("a")
    host.move(only)
    host.rpc.stopProcess(f"{only['generation']}:{host.ports_of(only)[1]}")
    mover = host.modules.generation.Mover(only)
    assert mover.to_do() == host.ports_of(only)[1:]
    mover.move()
    host.is_at(only)


# ---- Failures ----


@pytest.mark.slow
@pytest.mark.parametrize(
    ("misbehaviour", "why", "line"),
    [
        ("never ready", "was not ready within 1 s", "starting"),
        ("exit at start", "ended", "does not find its database"),
        ("exit after ready", "was ready, and ended", "gives up"),
    ],
)
def test_a_generation_that_fails_leaves_the_old_one_on_every_port(
    host: Host, misbehaviour: str, why: str, line: str
) -> None:
    old = host.written("a", parallel_processes=2)
    first, bad = host.ports_of(old)
    # what a terminal would obey, and XML does not know
    settings = {"MISBEHAVE": misbehaviour, "BAD_PORT": str(bad), "SAYS": "\x1b[1;31mno \x1b[0m\x00colours\udcff"}
    # the one runs, the others do not stay up for startsecs
    times = {"start_timeout": 1} if misbehaviour == "never ready" else {"start_timeout": 5, "startsecs": 1}
    new = host.written("b", settings=settings, min_ready_seconds=2, **times)
    host.move(old)
    with Poller(host, host.ports_of(old)) as poller, pytest.raises(host.modules.groups.Failure) as failed:
        host.move(new)
    # the process, why, and what it said last
    assert re.match(rf"{re.escape(new['generation'])}:{bad} {why}", str(failed.value)), failed.value
    assert f"fake runner {new['generation']} on {bad}: {line}" in str(failed.value)
    assert r": uses no \x00colours\xff" in str(failed.value)
    # one that dies takes along what is inside it: the one request that this poller may have there
    assert len(poller.failures) <= (misbehaviour == "exit after ready"), poller.failures
    assert poller.answers[first][-1] == old["generation"]
    host.is_at(old)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("misbehaviour", "comes_back"), [("exit after ready", False), ("exit once", True)], ids=["for good", "once"]
)
def test_a_process_that_dies_within_min_ready_seconds_takes_over_no_port(
    host: Host, capsys: pytest.CaptureFixture[str], misbehaviour: str, comes_back: bool
) -> None:
    old = host.written("a", parallel_processes=2)
    first, bad = host.ports_of(old)
    settings = {"MISBEHAVE": misbehaviour, "BAD_PORT": str(bad), "EXIT_AFTER": "1.2"}
    new = host.written("b", parallel_processes=2, min_ready_seconds=3, settings=settings)
    host.move(old)
    with Poller(host, [first]) as poller:
        result = run_module(host.modules.generation, capsys, **new)
    assert result["msg"].startswith(f"{new['generation']}:{bad} was ready, and ended (supervisord: ")
    assert f"fake runner {new['generation']} on {bad}: gives up" in result["msg"]
    assert result["current"] == old["generation"]
    # its old one never left, nor did the one beside it
    assert not [event for event in host.events() if event[0] == old["generation"] and event[2] != "ready"]
    assert poller.failures == []
    assert poller.answers[first][-1] == old["generation"]
    host.is_at(old)


@pytest.mark.slow
def test_a_process_that_was_restarted_before_anybody_looked_is_noticed(host: Host) -> None:
    """The first port's process dies, and is back, while the second port's old one still drains."""
    first, second = host.ports[:2]
    old = host.written("a", settings={"DRAIN": "3", "DRAIN_PORT": str(second)})
    settings = {
        "MISBEHAVE": "exit once",
        "BAD_PORT": str(first),
        "EXIT_WHEN": f"{old['generation']} {second} leaving",
    }
    new = host.written("b", settings=settings)
    host.move(old)
    with pytest.raises(host.modules.groups.Failure, match=r"was ready, and ended \(supervisord: (RUNNING|STARTING)\)"):
        host.move(new)
    assert host.when(new, first, "gives up") < host.when(old, second, "gone")
    lives = [event for event in host.events() if event == (new["generation"], first, "ready")]
    assert len(lives) == 2
    host.is_at(old)


def test_new_processes_are_watched_for_as_long_as_was_said(host: Host) -> None:
    host.move(host.written("a", host.ports[:1]))
    begun = time.monotonic()
    host.move(host.written("b", host.ports[:1], min_ready_seconds=0.5))
    assert 0.5 <= time.monotonic() - begun < 3


def test_a_failure_is_a_failed_task_with_the_log_and_without_the_secret(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    first = host.written(
        "a",
        host.ports[:1],
        startsecs=1,
        settings={"MISBEHAVE": "exit at start"},
        secrets={"KEY": "hunter2", "SAYS": "hunter2-hunter2 and all"},
    )
    result = run_module(host.modules.generation, capsys, **first)
    assert result["failed"] is True
    assert "does not find its database" in result["msg"]
    assert ": uses ********\n" in result["msg"], "the line is there, without the secret"
    assert "hunter2" not in json.dumps(result)


def test_a_first_generation_that_fails_leaves_nothing(host: Host) -> None:
    bad = host.written("a", startsecs=1, settings={"MISBEHAVE": "exit at start"})
    with pytest.raises(host.modules.groups.Failure):
        host.move(bad)
    assert host.groups() == set()
    assert list(host.confs.iterdir()) == []
    assert not (host.root / "current").is_symlink()
    good = host.written("b")
    host.move(good)
    host.is_at(good)


def test_after_an_interrupted_one_and_a_failed_one_the_old_one_is_alone(host: Host) -> None:
    old, interrupted = host.written("a"), host.written("b")
    host.move(old)
    abandoned = host.modules.generation.Mover(interrupted)
    abandoned.add(interrupted["generation"])
    abandoned.start(interrupted["generation"], host.ports_of(interrupted)[:1])
    with pytest.raises(host.modules.groups.Failure), Poller(host, host.ports_of(old)) as poller:
        host.move(host.written("c", startsecs=1, settings={"MISBEHAVE": "exit at start"}))
    assert poller.failures == []
    host.is_at(old)


def test_back_to_the_old_one_from_between_an_interrupted_one_and_a_failing_one(host: Host) -> None:
    """B has a port of A and one of its own when it is interrupted; C takes the one, and fails on A's next.

    A has a port that neither has, which it serves all the time.
    """
    first, second, spared, own = host.ports
    old = host.written("a", [first, second, spared], parallel_processes=3)
    interrupted = host.written("b", host.ports, surplus="keep")
    settings = {"MISBEHAVE": "exit at start", "BAD_PORT": str(second)}
    failing = host.written("c", [first, second], startsecs=1, surplus="keep", settings=settings)
    a, b, c = (params["generation"] for params in (old, interrupted, failing))
    host.move(old)
    abandoned = host.modules.generation.Mover(interrupted)
    abandoned.add(b)
    abandoned.start(b, [first, own])
    abandoned.stop(a, [first])
    assert host.running() == {(b, first), (b, own), (a, second), (a, spared)}
    with Poller(host, host.ports_of(old)) as poller, pytest.raises(host.modules.groups.Failure) as failed:
        host.move(failing)
    assert str(failed.value).startswith(f"{c}:{second} ended")
    assert "Going back" not in str(failed.value)
    assert poller.failures == []
    assert poller.saw(first)[0] == b
    assert c in poller.saw(first), "it had the port"
    assert poller.saw(second) == poller.saw(spared) == [a]
    host.is_at(old)
    with pytest.raises(ConnectionRefusedError):
        ask_port(own)


def test_a_configuration_that_supervisord_refuses_changes_nothing(host: Host) -> None:
    old, new = host.written("a"), host.written("b")
    host.move(old)
    program = host.manifest(new).with_name("supervisor.conf")
    program.write_text(program.read_text().replace("user=", "user=nobody-by-this-name-"))
    with pytest.raises(host.modules.groups.Failure, match="does not take the group"):
        host.move(new)
    host.is_at(old)


def test_a_generation_that_is_not_there_is_named(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    old = host.written("a")
    host.move(old)
    result = run_module(host.modules.generation, capsys, **(old | {"generation": "app-2.0-cccccc"}))
    assert (result["msg"], result["current"]) == (
        "The generation app-2.0-cccccc is not on this host.",
        old["generation"],
    )
    host.is_at(old)


def test_supervisord_that_does_not_answer_is_named(modules: Modules, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules.groups, "SOCKET", "unix:///nowhere/supervisor.sock")
    with pytest.raises(modules.groups.Failure, match=r"does not answer on unix:///nowhere/supervisor\.sock"):
        modules.groups.supervisord(timeout=0.1)


# ---- Check mode, and what is asked beforehand ----


def test_check_mode_on_a_bare_host(
    modules: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"root": str(tmp_path / "opt"), "generation": "board-1", "sockets": "/run/board"}
    result = run_module(modules.generation, capsys, check=True, **arguments)
    assert (result["changed"], result["diff"]["after"]) == (True, "board-1\n")
    assert run_module(modules.info, capsys, **arguments)["differs"] is True
    # neither without supervisor, where nothing but a check can go on
    monkeypatch.setattr(modules.groups, "SupervisorTransport", None)
    assert run_module(modules.info, capsys, **arguments)["differs"] is True
    assert run_module(modules.generation, capsys, check=True, **arguments)["changed"] is True
    assert "no supervisor" in run_module(modules.generation, capsys, **arguments)["msg"]
    assert not (tmp_path / "opt").exists()


def test_check_mode_says_what_would_change_and_changes_nothing(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = host.written("a"), host.written("b")
    host.move(old)
    before, files = host.events(), sorted(host.root.rglob("*"))
    # one that has to be written yet is another than what runs
    absent = new | {"generation": "app-2.0-cccccc"}
    for wanted, differs in ((old, False), (new, True), (absent, True)):
        result = run_module(host.modules.generation, capsys, check=True, **wanted)
        assert result["changed"] is differs
        assert result["diff"] == {"before": f"{old['generation']}\n", "after": f"{wanted['generation']}\n"}
        asked = run_module(host.modules.info, capsys, **host.asked(wanted))
        assert (asked["changed"], asked["differs"], asked["locked"], asked["damaged"]) == (False, differs, False, [])
    assert host.events() == before
    assert sorted(host.root.rglob("*")) == files, "not even the file that modules lock"
    host.is_at(old)


# ---- Who comes after whom ----


def test_other_ports_are_something_that_nginx_hears_of(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = host.written("a", host.ports[:2], parallel_processes=2), host.written("b", host.ports[:1])
    first = run_module(host.modules.generation, capsys, **old)
    assert (first["changed"], first["ports_change"]) == (True, False), "nothing was there"
    other = run_module(host.modules.generation, capsys, **new)
    assert (other["changed"], other["ports_change"]) == (True, True)
    again = run_module(host.modules.generation, capsys, **new)
    assert (again["changed"], again["ports_change"]) == (False, False)


def test_a_generation_remembers_which_one_it_follows(host: Host) -> None:
    a, b = (host.written(letter, host.ports[:1]) for letter in "ab")
    c = host.written("c", host.ports[:1], startsecs=1, settings={"MISBEHAVE": "exit at start"})

    def before(params: dict[str, Any]) -> str | None:
        return json.loads(host.manifest(params).read_text()).get("before")

    host.move(a)
    assert before(a) is None, "it is the first"
    host.move(b)
    assert (before(a), before(b)) == (None, a["generation"])
    # the way back is no reason to come forth again
    host.move(a | {"remember": False})
    assert (before(a), before(b)) == (None, a["generation"])
    with pytest.raises(host.modules.groups.Failure):
        host.move(c)
    assert before(c) is None, "it never followed"
    host.move(b)
    host.rpc.stopProcess(f"{b['generation']}:{host.ports[0]}")
    host.move(b)
    assert before(b) == a["generation"], "it does not follow itself"
    assert host.ports_of(b) == host.ports[:1], "what else the manifest says stays"
    host.move(a)
    assert before(a) == b["generation"]


def test_the_date_of_a_generation_is_when_it_became_current(host: Host) -> None:
    def date(params: dict[str, Any]) -> float:
        return host.manifest(params).stat().st_mtime

    a, b = host.written("a", host.ports[:1]), host.written("b", host.ports[:1])
    c = host.written("c", host.ports[:1], startsecs=1, settings={"MISBEHAVE": "exit at start"})
    assert date(a) == date(b) == date(c) == 0
    begun = time.time() - 1  # the kernel's file times are those of its last tick
    host.move(a)
    assert begun < date(a) <= time.time()
    host.move(b)
    assert date(b) > date(a)
    with pytest.raises(host.modules.groups.Failure):
        host.move(c)
    assert date(c) == 0
    host.move(a | {"remember": False})
    assert date(a) > date(b), "it is the last that became current"


# ---- Who waits for whom ----


def test_a_second_module_waits_for_the_first_and_finds_nothing_to_do(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = host.written("a"), host.written("b")
    host.move(old)
    locked = threading.Event()

    def first() -> None:
        with host.modules.root.alone(host.root):
            locked.set()
            time.sleep(0.2)  # in which one that does not wait begins the same
            host.move(new)

    thread = threading.Thread(target=first)
    thread.start()
    locked.wait()
    result = run_module(host.modules.generation, capsys, **new)
    thread.join()
    assert (result["changed"], result["processes"]) == (False, [])
    host.is_at(new)


def test_a_module_that_waits_for_too_long_says_so(
    modules: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(modules.root, "LOCK_SECONDS", 0.1)
    with modules.root.alone(tmp_path):
        with (
            pytest.raises(modules.root.Failure, match=rf"^Another run has been changing {tmp_path} for 0\.1 s;"),
            modules.root.alone(tmp_path),
        ):
            raise AssertionError("two are alone")
        # whoever may open a file may lock it (flock(2)): the application may not
        assert (tmp_path / ".lock").stat().st_mode & 0o077 == 0
    with modules.root.alone(tmp_path):
        pass


# ---- After an interrupted proof ----


def left_off_air(host: Host, letter: str, ports: list[int] | None = None) -> dict[str, Any]:
    """Write a generation whose proof was interrupted: its process still runs. Return its arguments."""
    params = host.written(letter, ports)
    mover, group = host.modules.generation.Mover(params), f"{params['generation']}-proof"
    mover.add_group(group, mover.place(params["generation"]) / "proof.conf")
    port = host.ports_of(params)[0]
    mover.start(group, [port])
    assert (group, port) in host.running()
    return params


def test_a_process_off_the_air_is_not_the_generation_and_goes_with_its_move(host: Host) -> None:
    old = host.written("a")
    host.move(old)
    new = left_off_air(host, "b")
    assert host.modules.generation.Mover(new).to_do() == host.ports_of(new)
    with Poller(host, host.ports_of(old)) as poller:
        host.move(new)
    assert poller.failures == []
    host.is_at(new)


@pytest.mark.parametrize("surplus", ["keep", "stop"])
@pytest.mark.parametrize("ports", [slice(0, 2), slice(2, 4)], ids=["of the same port", "of another port"])
def test_a_process_off_the_air_goes_with_the_way_back(
    host: Host, capsys: pytest.CaptureFixture[str], surplus: str, ports: slice
) -> None:
    old = host.written("a", parallel_processes=2, surplus=surplus)
    host.move(old)
    left_off_air(host, "b", host.ports[ports])
    events = host.events()
    ahead = run_module(host.modules.info, capsys, **host.asked(old))
    assert (ahead["differs"], ahead["surplus"]) == (True, []), "nginx never named it"
    with Poller(host, host.ports_of(old)) as poller:
        host.move(old)
    assert poller.failures == []
    assert {group for group, _, _ in host.events()[len(events) :]} == {host.written("b")["generation"] + "-proof"}
    host.is_at(old)


def test_a_host_without_one_of_its_directories_differs(
    host: Host, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The same release is deployed again then, which makes the directory before anything else."""
    wanted = host.written("a")
    host.move(wanted)
    place, file = tmp_path / "logs", tmp_path / "tmpfiles.conf"
    file.write_text(f"# logs\nd {place} 0750 root board -\n")
    for there in (False, True):
        if there:
            place.mkdir()
        asked = run_module(host.modules.info, capsys, **host.asked(wanted, directories=str(file)))
        assert asked["differs"] == (not there)
