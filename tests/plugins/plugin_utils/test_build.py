"""A release is built once, and what cannot work is refused by looking. No test asks a package index."""

import json
import shutil
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import REPOSITORY
from support.building import HASH, HERE, run_build, wheel
from support.product import TARGET


@pytest.fixture
def housed(build: ModuleType, given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Return the same, with a wheelhouse made by hand, of which nothing is imported."""

    def house(_builder: Any, pins: list[Any], _target: dict[str, str]) -> Path:
        place = tmp_path / f"house-{build.digest(*(pin.statement for pin in pins))}"
        (place / "wheels").mkdir(parents=True, exist_ok=True)
        wheel(place / "wheels", {"tornado.py": ""}, name="tornado")
        (place / "requirements.txt").write_text("".join(f"{pin.line()}\n" for pin in pins))
        return place

    monkeypatch.setattr(build, "wheelhouse", house)
    monkeypatch.setattr(build, "check_import", lambda *_: None)
    return given


def test_a_bundle_holds_what_a_host_installs(housed: dict[str, Any]) -> None:
    given = housed
    result = run_build(**given)
    assert result["changed"] is True
    assert result["release"] == f"1.0.0+{result['digest'][:8]}"
    ((target, of_target),) = result["targets"].items()
    assert target == f"py{HERE['python_full']}-x86_64-glibc2.36"
    assert of_target["environment"].startswith(f"{target}-")
    bundle, house = Path(of_target["bundle"]), Path(of_target["wheelhouse"])
    assert house.name == f"{of_target['environment']}.tar"
    with tarfile.open(house) as tar:
        assert tar.getnames() == ["requirements.txt", "wheels/tornado-1.0.0-py3-none-any.whl"]
        assert {(entry.mtime, entry.uid) for entry in tar} == {(0, 0)}
    with tarfile.open(bundle) as tar:
        names = tar.getnames()
        assert {(entry.mtime, entry.uid) for entry in tar} == {(0, 0)}
        manifest = tar.extractfile("manifest.json")
        assert manifest
        assert json.load(manifest) == {
            "name": "board",
            "digest": result["digest"],
            "entry": "board:make_app",
        }
    assert names == [
        "manifest.json",
        "wheels/board-1.0.0-py3-none-any.whl",
        "wheels/eyewall-1.0.0-py3-none-any.whl",
        "static/app.css",
        "static/app.css.gz",
        "static/app.css.br",
    ]
    # the same again is there already, and the same bytes when it is made again
    assert run_build(**given) == result | {"changed": False}
    for file in (bundle, house):
        content = file.read_bytes()
        file.unlink()
        assert run_build(**given) == result
        assert file.read_bytes() == content


def test_an_environment_changes_with_the_requirements_alone(housed: dict[str, Any]) -> None:
    given = housed

    def environments() -> list[str]:
        return [target["environment"] for target in run_build(**given)["targets"].values()]

    given["targets"] = [TARGET, TARGET | {"python_full": "3.11.9"}]
    before = environments()
    assert len(set(before)) == 2
    Path(given["source"], "src", "new.py").touch()
    given |= {"entry": "board:__name__", "static": ""}
    assert environments() == before
    Path(given["lock"]).write_text(f"tornado==6.5.2 {HASH}\n")
    assert not set(environments()) & set(before)


@pytest.mark.parametrize("what", ["source", "runner", "lock", "entry", "static"])
def test_another_input_is_another_release(housed: dict[str, Any], tmp_path: Path, what: str) -> None:
    given = housed
    before = run_build(**given)
    if what == "runner":
        given |= {"runner": str(shutil.copytree(given["runner"], tmp_path / "runner"))}
    if what in ("source", "runner"):
        (Path(given[what]) / "src" / "new.py").touch()
    elif what == "lock":
        Path(given["lock"]).write_text(f"tornado==6.5.2 {HASH}\n")
    else:
        given = given | {"entry": "board:__name__"} if what == "entry" else given | {"static": ""}
    after = run_build(**given)
    assert after["changed"] is True
    assert after["release"] != before["release"]


@pytest.mark.parametrize("place", ["inside the source", "elsewhere"])
def test_of_the_lock_file_what_it_says_is_the_release_and_not_its_comments(housed: dict[str, Any], place: str) -> None:
    given = housed
    if place == "inside the source":
        given = given | {"lock": f"{given['source']}/src/../requirements.lock"}

    def built(text: str) -> dict[str, Any]:
        Path(given["lock"]).write_text(text)
        return run_build(**given)

    before = built(f"# made on Monday\ntornado==6.5.2 \\\n    {HASH}\n    # via board\n")
    assert before["changed"] is True
    # another comment, another form of the same lines
    assert built(f"# made on Tuesday\ntornado==6.5.2 {HASH}  # via eyewall\n\n") == before | {"changed": False}
    releases = {before["release"]}
    for line in (
        f"tornado==6.5.3 {HASH}",
        f"tornado==6.5.2 {HASH.replace('0', '1')}",
        f"tornado==6.5.2 ; sys_platform == 'linux' {HASH}",
        f"tornado==6.5.2 {HASH}\nuvloop==0.22.1 {HASH}",
    ):
        after = built(f"# made on Monday\n{line}\n")
        assert after["changed"] is True
        assert after["release"] == f"1.0.0+{after['digest'][:8]}"
        releases.add(after["release"])
    assert len(releases) == 5


def test_a_refusal_is_a_failed_task_and_leaves_no_bundle(given: dict[str, Any]) -> None:
    result = run_build(**(given | {"entry": "board:nothing"}))
    assert result["msg"].startswith("tornado_app_factory is 'board:nothing'")
    assert list(Path(given["build"]).rglob("*.tar")) == []
    # nor does the next run take an unfinished one for done
    assert run_build(**(given | {"entry": "board:nothing"}))["failed"] is True


def test_a_static_directory_that_is_none_leaves_no_bundle(given: dict[str, Any]) -> None:
    for _ in range(2):
        result = run_build(**(given | {"static": "board/stattic"}))
        assert result["msg"].startswith("tornado_app_static: got 'board/stattic'")
    assert list(Path(given["build"]).rglob("*.tar")) == []


# ---- The application's lock, and what the runner needs ----

UV_LOCK = """version = 1
requires-python = ">=3.11"

[[package]]
name = "board"
version = "1.0.0"
source = { editable = "." }
dependencies = [{ name = "tornado" }]

[[package]]
name = "tornado"
version = "6.5.2"
source = { registry = "https://index.example/simple" }
wheels = [{ url = "https://index.example/tornado-6.5.2-py3-none-any.whl", hash = "sha256:DIGEST" }]
""".replace("DIGEST", "0" * 64)
PYLOCK = """lock-version = "1.0"
created-by = "hand"

[[packages]]
name = "tornado"
version = "6.5.2"
wheels = [{ url = "https://index.example/tornado-6.5.2-py3-none-any.whl", hashes = { sha256 = "DIGEST" } }]
""".replace("DIGEST", "0" * 64)
LOCKS = {
    "uv.lock": UV_LOCK,
    "pylock.toml": PYLOCK,
    "requirements.txt": f"# by pip-compile\ntornado==6.5.2 \\\n    {HASH}\n",
    "requirements.lock": f"-e .\ntornado==6.5.2 {HASH}\n",
}


def of_runner(given: dict[str, Any], text: str) -> None:
    Path(given["runner_lock"]).write_text(text)


def needing(given: dict[str, Any], tmp_path: Path, *needs: str, extra: str = "") -> None:
    """Let the runner have dependencies."""
    runner = Path(shutil.copytree(given["runner"], tmp_path / "runner"))
    text = (runner / "pyproject.toml").read_text()
    more = f"[project.optional-dependencies]\ngunicorn = {[extra] if extra else []}\n\n[build-system]"
    text = text.replace("dependencies = []", f"dependencies = {json.dumps(needs)}").replace("[build-system]", more)
    (runner / "pyproject.toml").write_text(text)
    given["runner"] = str(runner)


def test_every_kind_of_lock_is_found_and_the_same_is_the_same_release(housed: dict[str, Any]) -> None:
    """None has a word of the runner's: what that needs comes from its own lock."""
    given, found = housed | {"lock": ""}, []
    of_runner(given, f"tornado==6.6.1 {HASH}\nuvloop==0.23.0 {HASH}\n")
    for name, text in LOCKS.items():
        lock = Path(given["source"], name)
        lock.write_text(text)
        found.append(run_build(**given))
        assert run_build(**given | {"lock": name})["release"] == found[-1]["release"]
        lock.unlink()
    assert {result["release"] for result in found} == {found[0]["release"]}
    with tarfile.open(next(iter(found[0]["targets"].values()))["wheelhouse"]) as tar:
        wanted = tar.extractfile("requirements.txt")
        assert wanted
        assert sorted(wanted.read().decode().splitlines()) == [f"tornado==6.5.2 {HASH}", f"uvloop==0.23.0 {HASH}"]


def test_several_locks_or_none(given: dict[str, Any]) -> None:
    source = Path(given["source"])

    def said() -> str:
        return str(run_build(**given | {"lock": ""})["msg"])

    none = (
        "tornado_app_requirements: got none of pylock.toml, uv.lock, requirements.lock, requirements.txt in "
        f"'{source}'; expected the application's lock. "
    )
    assert said().startswith(f"{none}Make the lock with: uv lock, or ")
    (source / "poetry.lock").touch()
    assert said() == f"{none}Run: poetry export --output requirements.txt"
    for name, text in LOCKS.items():
        (source / name).write_text(text)
    assert said() == (
        f"tornado_app_requirements: got pylock.toml, uv.lock, requirements.lock, requirements.txt in '{source}'; expected one "
        "lock. Set tornado_app_requirements to the one that hosts are to have."
    )
    message = run_build(**given | {"lock": "nowhere"})["msg"]
    assert message.startswith(f"tornado_app_requirements: got '{source}/nowhere', where no file is; expected a lock. ")


def test_of_what_both_locks_have_the_applications_is_taken_and_only_the_rest_is_part_of_the_release(
    housed: dict[str, Any], tmp_path: Path
) -> None:
    given = housed
    needing(given, tmp_path, "tornado>=6.5,<7", "uvloop>=0.21 ; sys_platform == 'linux'")
    Path(given["lock"]).write_text(f"tornado==6.5.2 {HASH}\n")

    def built(tornado: str, uvloop: str) -> tuple[str, str]:
        of_runner(
            given, f"# made today\ntornado=={tornado} {HASH}\nuvloop=={uvloop} ; sys_platform == 'linux' {HASH}\n"
        )
        result = run_build(**given)
        (target,) = result["targets"].values()
        with tarfile.open(target["wheelhouse"]) as tar:
            wanted = tar.extractfile("requirements.txt")
            assert wanted
            lines = sorted(wanted.read().decode().splitlines())
        assert lines == [f"tornado==6.5.2 {HASH}", f"uvloop=={uvloop} {HASH}"]
        return result["release"], target["environment"]

    before = built("6.6.1", "0.23.0")
    assert built("6.6.2", "0.23.0") == before
    after = built("6.6.2", "0.23.1")
    assert not set(after) & set(before)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tornado==6.1", "tornado>=6.5,<7"),
        ("Tornado==7.0b1 ; python_version >= '3.8'", "tornado>=6.5,<7"),
        ("prometheus_client==0.20.0", "prometheus-client>=0.21"),
        ("uvloop==0.1 ; sys_platform == 'linux'", "uvloop>=0.21"),
        ("gunicorn==25.0", "gunicorn>=27"),
    ],
)
def test_a_version_that_the_runner_cannot_run_with(given: dict[str, Any], line: str, expected: str) -> None:
    given |= {"runner": str(REPOSITORY / "runner"), "extras": ["gunicorn"]}
    Path(given["lock"]).write_text(f"# made in 2020\n{line} {HASH}\n")
    named = line.replace(" ;", ";").replace("'", '"')
    assert run_build(**given)["msg"] == (
        f"tornado_app_requirements: got '{named}' ({given['lock']}:2); expected {expected}, which the runner needs."
    )
    assert list(Path(given["build"]).rglob("*.tar")) == []


# ---- A wheel ----


def test_a_wheel_is_used_as_it_is(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "handed").mkdir()
    file = wheel(tmp_path / "handed", {"board/__init__.py": "make_app = dict\n", "board/static/a.txt": "a"})
    (tmp_path / "handed" / "requirements.lock").touch()
    given |= {"source": str(file), "lock": "requirements.lock"}  # beside the wheel
    result = run_build(**given)
    assert result["release"] == f"1.0.0+{result['digest'][:8]}"
    (target,) = result["targets"].values()
    with tarfile.open(target["bundle"]) as tar:
        held = tar.extractfile(f"wheels/{file.name}")
        assert held
        assert held.read() == file.read_bytes()
    assert run_build(**(given | {"version": "1.0.0"}))["release"] == "1.0.0"
    message = run_build(**(given | {"version": "1.0.1"}))["msg"]
    assert message == (
        f"tornado_app_version: got '1.0.1' for '{file}' (tornado_app_source), which is version 1.0.0; expected the "
        "wheel's own version, or none."
    )
    wheel(tmp_path / "handed", {"board/__init__.py": "make_app = list\n", "board/static/a.txt": "a"})
    assert run_build(**given)["release"] != result["release"]


def test_a_build_directory_that_cannot_be_is_named(given: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = run_build(**given | {"build": str(tmp_path / "file")})["msg"]
    assert said.startswith(f"Building on the controller, in {tmp_path}/file (tornado_app_build), failed: [Errno ")
