"""What is written of a generation, and its process out of rotation: with a real supervisord, beside one that serves."""

import grp
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.host_files import add_release
from support.product import run_module
from support.supervised_host import GROUP, UNCLOSED_CONNECTIONS, Host, Modules, Poller

pytestmark = UNCLOSED_CONNECTIONS
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may give a file away (chown)")

Prove = Callable[..., dict[str, Any]]


@pytest.fixture
def old(host: Host) -> dict[str, Any]:
    """Let a generation serve on the ports that the next one is to have."""
    serving = host.written("a", parallel_processes=2)
    host.move(serving)
    return serving


@pytest.fixture
def prove(host: Host, old: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> Prove:
    """Run the module for a generation `b`, and see that it leaves no trace in supervisord or on the ports."""

    def run(**given: Any) -> dict[str, Any]:
        with Poller(host, host.ports_of(old)) as poller:
            result = run_module(host.modules.smoke_test, capsys, **host.wanted("b", **given))
            time.sleep(0.05)
        assert poller.failures == []
        assert [poller.saw(port) for port in host.ports_of(old)] == [[old["generation"]]] * 2
        host.is_at(old)
        assert sorted(event for event in host.events() if event[0] == old["generation"]) == [
            (old["generation"], port, "ready") for port in host.ports_of(old)
        ], "each was started once, and never told to leave"
        return result

    return run


def off_air(host: Host) -> list[str]:
    """Return what the process out of rotation did; it is one, and has the number of the first port."""
    group = host.wanted("b")["generation"] + "-proof"
    found = [(port, what) for name, port, what in host.events() if name == group]
    assert {port for port, _ in found} == {host.ports[0]}
    assert group not in {name for name, _ in host.running()}
    return [what for _, what in found]


# ---- What it answers ----


def test_a_generation_that_answers_is_proved_and_gone_again(host: Host, prove: Prove) -> None:
    result = prove(health_path="/health", smoke_paths=["/", "/login"], settings={"ANSWERS": '{"/login": 302}'})
    assert result["changed"] is True
    assert result["answers"] == {"/health": 200, "/": 200, "/login": 302}
    assert 0 < result["ready_seconds"] < 10
    assert off_air(host) == ["ready", "leaving", "gone"]
    # what was written is what the handover takes
    host.move(host.written("b"))
    host.is_at(host.written("b"))


@pytest.mark.parametrize(
    ("status", "path", "below"),
    [(500, "/health", 299), (302, "/health", 299), (404, "/about", 399), (500, "/about", 399)],
)
def test_a_wrong_answer_is_named(host: Host, prove: Prove, status: int, path: str, below: int) -> None:
    result = prove(health_path="/health", smoke_paths=["/", "/about"], settings={"ANSWERS": json.dumps({path: status})})
    group = host.wanted("b")["generation"] + "-proof"
    assert result["msg"].startswith(
        f"Smoke test, before any port was changed: {group}: GET {path} was answered with {status}; "
        f"expected 200 to {below}. The last lines of its log:\n"
    )
    assert f"fake runner {group} on {host.ports[0]}: ready" in result["msg"]
    assert off_air(host) == ["ready", "leaving", "gone"]


def test_a_path_that_is_health_and_smoke_has_to_be_healthy(prove: Prove) -> None:
    result = prove(health_path="/", smoke_paths=["/"], settings={"ANSWERS": '{"/": 302}'})
    assert "GET / was answered with 302; expected 200 to 299." in result["msg"]


def test_no_answer_in_time_is_named(host: Host, prove: Prove) -> None:
    result = prove(health_path="/health", settings={"ANSWERS": '{"/health": 0}'}, start_timeout=1)
    assert result["msg"].startswith("Smoke test, before any port was changed: ")
    assert "-proof: GET /health gave no answer within 1 s (TimeoutError" in result["msg"]
    assert off_air(host) == ["ready", "leaving", "gone"]


def test_a_process_that_dies_of_a_request_is_named(host: Host, prove: Prove) -> None:
    settings = {"ANSWERS": '{"/": 0}', "MISBEHAVE": "exit after ready", "EXIT_AFTER": "0.4"}
    result = prove(settings=settings)
    assert "-proof: GET / gave no answer" in result["msg"]
    assert f"on {host.ports[0]}: gives up" in result["msg"]
    assert off_air(host) == ["ready", "gives up"], "nobody starts it again"


def test_a_process_that_leaves_instead_of_draining_is_not_waited_for(host: Host, prove: Prove) -> None:
    result = prove(settings={"ASKED": "leaves"})
    assert result["changed"] is True, result["msg"]
    assert off_air(host) == ["ready"], "nobody starts it again"


@pytest.mark.parametrize(
    ("misbehaviour", "why", "line"),
    [
        ("never ready", "was not ready within 1 s (supervisord: RUNNING)", "starting"),
        ("exit at start", "ended (supervisord: EXITED)", "does not find its database"),
    ],
)
def test_a_process_that_does_not_get_ready_is_named(
    host: Host, prove: Prove, misbehaviour: str, why: str, line: str
) -> None:
    result = prove(settings={"MISBEHAVE": misbehaviour}, start_timeout=1)
    group = host.wanted("b")["generation"] + "-proof"
    assert result["msg"].startswith(
        f"Smoke test, before any port was changed: {group}:{host.ports[0]} {why}. The last lines of its log:\n"
    )
    assert f"fake runner {group} on {host.ports[0]}: {line}" in result["msg"]
    assert off_air(host).count(line) == 1, "nobody starts it again"


def test_a_process_that_does_not_leave_is_killed(host: Host, prove: Prove) -> None:
    proof = host.wanted("b")["proof"].replace("stopwaitsecs=3", "stopwaitsecs=1")
    assert prove(proof=proof, settings={"MISBEHAVE": "ignore SIGTERM"})["answers"] == {"/": 200}
    assert off_air(host) == ["ready", "leaving"]


def test_a_configuration_that_supervisord_refuses_changes_nothing(host: Host, prove: Prove) -> None:
    proof = host.wanted("b")["proof"].replace("user=", "user=nobody-by-this-name-")
    assert "supervisord does not take the group" in prove(proof=proof)["msg"]


# ---- When there is something to prove ----


def test_what_an_interrupted_proof_left_is_proved_and_gone(host: Host, prove: Prove) -> None:
    wanted = host.wanted("b")
    abandoned, group = host.modules.smoke.SmokeTest(wanted), wanted["generation"] + "-proof"
    abandoned.write()
    abandoned.add_group(group, abandoned.place(wanted["generation"]) / "proof.conf")
    abandoned.start(group, host.ports[:1])
    assert (group, host.ports[0]) in host.running()
    assert prove()["answers"] == {"/": 200}
    assert off_air(host) == ["ready", "leaving", "gone"], "the one that ran was asked"


def test_the_current_generation_has_proved_itself(
    host: Host, old: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for check in (False, True):
        result = run_module(host.modules.smoke_test, capsys, check=check, **host.wanted("a", settings={"OTHER": "x"}))
        assert result["changed"] is False
    assert [group for group, _, _ in host.events()] == [old["generation"]] * 2, "nothing was started"


def test_a_generation_that_is_there_needs_nothing_but_its_name(host: Host, prove: Prove) -> None:
    host.written("b")
    assert prove(release=None, program=None, proof=None)["answers"] == {"/": 200}
    assert off_air(host) == ["ready", "leaving", "gone"]


def test_a_generation_that_is_not_there_cannot_be_gone_back_to(host: Host, prove: Prove) -> None:
    result = prove(release=None, program=None, proof=None)
    assert result["msg"] == f"The generation {host.wanted('b')['generation']} is not on this host."
    assert not host.manifest(host.wanted("b")).parent.exists()


def test_check_mode_changes_nothing(host: Host, old: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    before, files = host.events(), sorted(host.root.rglob("*"))
    assert run_module(host.modules.smoke_test, capsys, check=True, **host.wanted("b"))["changed"] is True
    assert sorted(host.root.rglob("*")) == files, "not even the file that modules lock"
    assert host.events() == before
    host.is_at(old)


def test_a_bare_host(
    modules: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(modules.groups, "SupervisorTransport", None)
    arguments = {
        "root": str(tmp_path / "opt"), "generation": "board-1", "release": "1", "program": "", "proof": "", "ports": [8000],
        "group": GROUP, "sockets": "/run/board", "health_path": "/",
    }  # fmt: skip
    assert run_module(modules.smoke_test, capsys, check=True, **arguments)["changed"] is True
    assert "no supervisor" in run_module(modules.smoke_test, capsys, **arguments)["msg"]
    assert not (tmp_path / "opt").exists()


@pytest.mark.parametrize("misbehaviour", ["", "exit at start"])
def test_no_secret_is_in_the_result(prove: Prove, misbehaviour: str) -> None:
    # an application that says it in its log is not unusual
    result = prove(secrets={"SAYS": "hunter2-hunter2"}, settings={"MISBEHAVE": misbehaviour})
    assert "hunter2" not in json.dumps(result)
    if misbehaviour:
        assert "does not find its database" in result["msg"]
        assert ": uses ****" in result["msg"], "the line is there, without the secret"


def test_a_secret_that_is_no_more_the_inventorys_is_none_of_the_results(host: Host, prove: Prove) -> None:
    host.written("b", secrets={"SAYS": "hunter2-hunter2"}, settings={"MISBEHAVE": "exit at start"})
    result = prove(release=None, program=None, proof=None, secrets={"SAYS": "rotated"})
    assert ": uses ********\n" in result["msg"]
    assert "hunter2" not in json.dumps(result)


# ---- What is written ----


@pytest.fixture
def written(modules: Modules, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a generation without a supervisord; its directory."""
    monkeypatch.setattr(modules.groups, "supervisord", lambda: None)
    (tmp_path / "generations").mkdir()
    add_release(tmp_path, "1")

    def write(**given: Any) -> Path:
        params = {
            "root": str(tmp_path), "generation": "board-1-aaaaaa", "release": "1", "program": "[program:x]\n",
            "proof": "[program:x-proof]\n", "settings": {}, "secrets": {}, "ports": [8000, 8001], "group": GROUP, **given,
        }  # fmt: skip
        modules.smoke.SmokeTest(params).write()
        return tmp_path / "generations" / "board-1-aaaaaa"

    return write


@as_root
def test_settings_are_for_the_applications_group_alone(written: Callable[..., Path]) -> None:
    other = next(group for group in grp.getgrall() if group.gr_gid != os.getgid())
    status = (written(group=other.gr_name) / "settings.json").stat()
    assert stat.S_IMODE(status.st_mode) == 0o640
    assert (status.st_uid, status.st_gid) == (0, other.gr_gid)


@as_root
def test_a_strict_umask_does_not_lock_the_application_out(written: Callable[..., Path]) -> None:
    before = os.umask(0o077)
    try:
        place = written()
    finally:
        os.umask(before)
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert stat.S_IMODE((place / "settings.json").stat().st_mode) == 0o640


@as_root
def test_settings_and_secrets_are_one_environment(written: Callable[..., Path]) -> None:
    place = written(settings={"SIZE": "0640", "NAME": "ä b"}, secrets={"KEY": "x"})
    assert json.loads((place / "settings.json").read_text()) == {"SIZE": "0640", "NAME": "ä b", "KEY": "x"}
    manifest = place / "generation.json"
    assert json.loads(manifest.read_text()) == {
        "generation": "board-1-aaaaaa", "release": "1", "ports": [8000, 8001], "secrets": ["KEY"],
        "hashes": {
            name: hashlib.sha256((place / name).read_bytes()).hexdigest()
            for name in ("settings.json", "supervisor.conf", "proof.conf")
        },
    }  # fmt: skip
    assert manifest.stat().st_mtime == 0, "it never was current"
    assert stat.S_IMODE(manifest.stat().st_mode) == 0o600, "a hash of a short secret is as good as the secret"
    assert (place / "supervisor.conf").read_text() == "[program:x]\n"
    assert (place / "proof.conf").read_text() == "[program:x-proof]\n"
    assert (place / "release").readlink() == place.parents[1] / "releases" / "1"


@as_root
def test_an_unfinished_generation_is_written_again_and_a_finished_one_never(
    written: Callable[..., Path],
) -> None:
    place = written(settings={"NAME": "first"})
    assert json.loads((written(settings={"NAME": "second"}) / "settings.json").read_text()) == {"NAME": "first"}
    (place / "generation.json").unlink()
    (place / "left-behind").touch()
    assert json.loads((written(settings={"NAME": "second"}) / "settings.json").read_text()) == {"NAME": "second"}
    assert not (place / "left-behind").exists()
