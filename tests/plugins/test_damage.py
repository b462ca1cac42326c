"""A file of the layout that is damaged: status names it, the same deploy makes it again under traffic, and everything goes on."""

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.basic import AnsibleModule
from support.host_files import add_environment, add_generation, add_release, cut, delete, empty, garble, hide, record
from support.product import ROLES, evaluate, helper, load_module, load_yaml, run_module
from support.supervised_host import UNCLOSED_CONNECTIONS, Host, Poller

pytestmark = [*UNCLOSED_CONNECTIONS, pytest.mark.slow]


DAMAGES = [delete, empty, cut, garble, hide]
LINK_DAMAGES = [delete, hide]
RUN = {"id": "run-1", "owner": "ada@desk", "controller": "desk", "pid": 4711, "pid_started": 99}
BEGIN = {"state": "begun", "wanted": "g2", "release": "2.0", "verb": "deploy", "expires": 600}
OF_JSON = "Expecting value"  # what Python's json says, without the name of a file


def info_of(root: Path, capsys: pytest.CaptureFixture[str], sockets: Path | None = None) -> dict[str, Any]:
    module = load_module("app_info")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "strangers", lambda *_: [])
        return run_module(module, capsys, root=str(root), sockets=str(sockets or root), user="board")


@pytest.fixture
def served(host: Host, capsys: pytest.CaptureFixture[str]) -> Callable[[], dict[str, Any]]:
    """Let a generation serve; what deploys it, as the role does, and says whether anything changed."""
    wanted = host.wanted("a")
    moved = host.written("a")
    host.move(moved)

    def deploy() -> dict[str, Any]:
        run_module(host.modules.smoke_test, capsys, **wanted)
        result = run_module(host.modules.generation, capsys, **moved)
        host.is_at(moved)
        return result

    assert deploy()["changed"] is False, "the control: nothing is damaged, and nothing is made again"
    return deploy


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *((file, damage) for file in ("generation", "settings", "supervisor", "proof") for damage in DAMAGES),
        *((link, damage) for link in ("release", "current", "program") for damage in LINK_DAMAGES),
        ("directory", shutil.rmtree),
    ],
)
def test_a_damaged_generation_is_made_again_under_traffic(
    host: Host,
    served: Callable[[], dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    file: str,
    damage: Callable[[Path], None],
) -> None:
    name = host.wanted("a")["generation"]
    place = host.root / "generations" / name
    path = {
        "generation": place / "generation.json",
        "settings": place / "settings.json",
        "supervisor": place / "supervisor.conf",
        "proof": place / "proof.conf",
        "release": place / "release",
        "current": host.root / "current",
        "program": host.confs / f"eyewall-app-{name}.conf",
        "directory": place,
    }[file]
    processes = host.running()
    pids = {info["pid"] for info in host.rpc.getAllProcessInfo()}
    before = {one: one.read_bytes() for one in place.iterdir() if one.is_file() and one.name != "generation.json"}
    damage(path)
    told = info_of(host.root, capsys, host.sockets)
    assert any(sentence.startswith(f"{path}") and "; expected " in sentence for sentence in told["damaged"]), told
    assert OF_JSON not in json.dumps(told)
    (host.root / "current").is_symlink() or (host.root / "current").mkdir(exist_ok=True)
    with Poller(host, host.ports[:2]) as poller:
        assert served()["changed"] is True
    # the poller reads `current` too: where that was what is damaged, it could not
    assert [one for one in poller.failures if file != "current"] == []
    assert host.running() == processes
    assert {info["pid"] for info in host.rpc.getAllProcessInfo()} == pids, "nothing was started again for it"
    assert info_of(host.root, capsys)["damaged"] == []
    assert {one: one.read_bytes() for one in before} == before
    assert stat.S_IMODE((place / "settings.json").stat().st_mode) == 0o640
    assert served()["changed"] is False


def test_damage_beside_what_runs_is_a_reason_to_deploy(host: Host, capsys: pytest.CaptureFixture[str]) -> None:
    """Else `deploy.yml` would say that there is nothing to do, and `status` that there is."""
    host.written("a")
    moved = host.written("b")
    host.move(moved)
    ahead = run_module(host.modules.info, capsys, **host.asked(moved))
    assert (ahead["differs"], ahead["damaged"]) == (False, []), "the control"
    empty(host.root / "generations" / host.wanted("a")["generation"] / "settings.json")
    ahead = run_module(host.modules.info, capsys, **host.asked(moved))
    assert ahead["differs"] is False
    assert len(ahead["damaged"]) == 1
    asked = {"hostvars": {"app1": {"__tornado_app_ahead": ahead}}, "ansible_play_hosts_all": ["app1"]}
    (task,) = [
        task
        for task in load_yaml(ROLES / "tornado_app" / "tasks" / "converge.yml")
        if task["name"] == "converge | Decide whether anything has to change"
    ]
    work = task["ansible.builtin.set_fact"]["__tornado_app_work"].strip()[2:-2]
    found = evaluate(task["vars"]["__tornado_app_asked"].strip()[2:-2], **asked)
    assert evaluate(work, **asked, __tornado_app_asked=found) is True
    assert evaluate(work, **asked, __tornado_app_asked=[{**ahead, "damaged": []}]) is False, "the control"


def test_what_a_rollback_leads_to_survives_the_loss_of_the_manifest(
    host: Host, capsys: pytest.CaptureFixture[str]
) -> None:
    host.move(host.written("a"))
    moved = host.written("b")
    host.move(moved)
    a, b = (host.wanted(letter)["generation"] for letter in "ab")
    line = {**record(1), "verb": "deploy", "from": a, "to": b}
    (host.root / "deploys.jsonl").write_text(f"{json.dumps(line)}\n" + json.dumps(record(2))[:-20])
    (host.root / "generations" / b / "generation.json").write_text("")
    told = info_of(host.root, capsys, host.sockets)
    assert [(one["name"], one["current"], one["ports"]) for one in told["generations"]] == [
        (b, True, host.ports[:2]),
        (a, False, host.ports[:2]),
    ], "its ports are known by its sockets"
    assert len(told["damaged"]) == 2, "the manifest, and the line of the journal that was cut"
    run_module(host.modules.smoke_test, capsys, **host.wanted("b"))
    run_module(host.modules.generation, capsys, **moved)
    (goal,) = [one["name"] for one in info_of(host.root, capsys)["generations"] if one["before"]]
    assert goal == a


def test_a_deploy_that_fails_gives_back_ports_to_a_damaged_generation(host: Host) -> None:
    """What is damaged may be serving: a way back is open as long as supervisord knows it."""
    old = host.written("a")
    host.move(old)
    new = host.written("b", settings={"MISBEHAVE": "exit at start"}, start_timeout=5)
    host.manifest(old).write_text("{")
    with Poller(host, host.ports[:2]) as poller, pytest.raises(host.modules.root.Failure):
        host.move(new)
    assert poller.failures == []
    assert {group for group, _ in host.running()} == {old["generation"]}


def test_without_its_settings_a_log_is_not_shown(host: Host) -> None:
    """What is secret in it is not known then."""
    params = host.written("a", secrets={"SAYS": "hunter2-hunter2"})
    host.move(params)
    groups = host.modules.groups.Groups(params)
    assert "hunter2" not in groups.log(params["generation"], host.ports[0])
    (host.root / "generations" / params["generation"] / "settings.json").write_text("")
    assert "Its log is not shown" in groups.log(params["generation"], host.ports[0])


# ---- The lock of a deploy, and the journal ----


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a host with three generations, the second one current, and a journal; nothing runs."""
    load_module("deploy_lock")
    monkeypatch.setattr(helper("root"), "PROGRAMS", tmp_path / "conf.d")
    root = tmp_path / "board"
    for number in range(4):
        manifest = add_generation(root, f"g{number}", f"{number}.0") / "generation.json"
        os.utime(manifest, (number, number))
    (root / "current").symlink_to("generations/g2")
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "eyewall-app-g2.conf").symlink_to(root / "generations" / "g2" / "supervisor.conf")
    (root / "static").mkdir()
    (root / "deploys.jsonl").write_text("".join(f"{json.dumps(record(number))}\n" for number in range(3)))
    return root


@pytest.fixture
def call(root: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    module = load_module("deploy_lock")

    def run(**arguments: Any) -> dict[str, Any]:
        kept = {"logs": str(root / "logs"), "keep": 2} if arguments["state"] == "ended" else {}
        return run_module(module, capsys, **{"root": str(root), **kept, "run": RUN, **arguments})

    return run


def test_an_undamaged_host_has_no_damage(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert info_of(root, capsys)["damaged"] == []


@pytest.mark.parametrize("damage", DAMAGES[1:])
def test_a_damaged_lock_is_named_and_none(
    root: Path,
    call: Any,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    call(**BEGIN)
    damage(root / "deploy.json")
    (named,) = info_of(root, capsys)["damaged"]
    assert named.startswith(f"{root / 'deploy.json'}: got ")
    begun = call(**BEGIN, run=RUN | {"id": "run-2"})
    (warning,) = warnings
    assert named in warning
    assert begun["from"] == "g2"
    assert info_of(root, capsys)["lock"]["id"] == "run-2"
    assert call(state="ended", message="it failed", run=RUN | {"id": "run-2"})["changed"] is True


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_journal_is_named_and_goes_on(
    root: Path, call: Any, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None]
) -> None:
    damage(root / "deploys.jsonl")
    told = info_of(root, capsys)
    # without a line, there is nothing that is not as it was written
    assert bool(told["damaged"]) == (damage not in (delete, empty))
    assert all(sentence.startswith(f"{root / 'deploys.jsonl'}") for sentence in told["damaged"])
    call(**BEGIN)
    call(state="ended", message="it failed")
    lines = (root / "deploys.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == [*(one["id"] for one in told["deploys"]), "run-1"]
    assert info_of(root, capsys)["damaged"] == []


@pytest.mark.parametrize("name", [".lock", ".deploy.lock"])
def test_what_cannot_be_locked_is_named(root: Path, call: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(AnsibleModule, "warn", lambda _module, text: warnings.append(text))
    call(**BEGIN)
    (root / name).unlink(missing_ok=True)
    (root / name).mkdir()
    result = call(state="ended")
    # the deploy has succeeded; that something stays that nobody goes back to is no reason to fail
    assert bool(result.get("failed")) == (name == ".deploy.lock")
    (message,) = [result["msg"]] if result.get("failed") else warnings
    assert f"{root / name}: got 'Is a directory'; expected a file that can be locked. Remove what is there." in message


# ---- What nobody needs goes ----


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    ("file", "gone"),
    [
        ("generations/g0/generation.json", {"g0", "0.0"}),
        ("generations/g0/settings.json", {"g0", "0.0"}),
        ("generations/g2/generation.json", {"g0", "0.0"}),
        ("generations/g2/settings.json", {"g0", "0.0"}),
        ("releases/0.0/release.json", {"g0", "0.0"}),
        ("releases/2.0/release.json", {"g0", "0.0"}),
        ("environments/e1/environment.json", {"g0", "0.0", "e1"}),
    ],
)
def test_prune_goes_on(
    root: Path, call: Any, file: str, gone: set[str], damage: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """What is current stays, damaged or not; what is damaged and not current goes."""
    damage(root / file)
    assert any(sentence.startswith(str(root / file)) for sentence in info_of(root, capsys)["damaged"])
    call(**BEGIN)
    removed = {Path(path).name for path in call(state="ended")["removed"]}
    assert gone <= removed
    assert not removed & {"g2", "2.0"}, "the current one"
    assert removed <= gone | {"g1", "1.0", "e1"}
    left = info_of(root, capsys)["damaged"]
    assert bool(left) == ("2" in file), f"the rest needs a deploy of the current one: {left}"


def test_the_generation_before_goes_if_it_is_damaged(root: Path, call: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody can go back to it, and its damage would be reported forever."""
    manifest = root / "generations" / "g2" / "generation.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "before": "g0"}))
    call(**BEGIN)
    assert "g0" not in {Path(path).name for path in call(state="ended")["removed"]}, "the control"
    empty(root / "generations" / "g0" / "settings.json")
    call(**BEGIN)
    assert "g0" in {Path(path).name for path in call(state="ended")["removed"]}
    assert info_of(root, capsys)["damaged"] == []


def test_a_manifest_of_before_it_vouched_for_files_is_enough(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_environment(root, "e2")
    add_release(root, "9.0", "e2")
    assert info_of(root, capsys)["damaged"] == []
