"""A release is built once, and what cannot work is refused by looking. No test asks a package index."""

import gzip
import json
import random
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import brotli
import pytest
from support.building import (  # noqa: F401 -- pytest takes fixtures from here
    HASH,
    HERE,
    TARGET,
    build_fixture,
    given_fixture,
    helper_fixture,
    lock_fixture,
    runner_fixture,
    source_fixture,
    wheel,
    write,
)
from support.product import run_module

SCRIPTS = "board-1.0.0.dist-info/entry_points.txt"


# ---- Static files ----


def test_static_files_come_from_the_wheel(build: ModuleType, tmp_path: Path) -> None:
    file = wheel(
        tmp_path,
        {"board/static/a.css": "a", "board/static/img/b.svg": "b", "board/static2/c": "c", "board/x.py": ""},
    )
    for static in ("board/static", "board/static/"):
        assert build.static_files(file, static) == {"a.css": b"a", "img/b.svg": b"b"}


@pytest.mark.parametrize("static", ["static", "board/stat", "board/static/a.css", "nowhere"])
def test_a_static_directory_that_is_none(build: ModuleType, tmp_path: Path, static: str) -> None:
    file = wheel(tmp_path, {"board/static/a.css": "a"})
    with pytest.raises(build.Refusal) as refused:
        build.static_files(file, static)
    assert str(refused.value).startswith(
        f"tornado_app_static is '{static}', and {file.name} has no file below it; allowed is"
    )


def test_what_is_worth_it_is_compressed(build: ModuleType) -> None:
    text = b"body { color: teal }\n" * 100
    found = build.compressed("css/app.css", text)
    assert set(found) == {".gz", ".br"}
    assert gzip.decompress(found[".gz"]) == text
    assert brotli.decompress(found[".br"]) == text
    assert found == build.compressed("css/app.css", text), "the hour must not be in it"


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("photo.jpg", b"x" * 5000),  # compressed already, whatever it looks like
        ("noise.js", random.Random(1).randbytes(5000)),  # noqa: S311
        ("empty.css", b""),
        ("tiny.css", b"a{}"),
    ],
)
def test_what_is_not_worth_it_is_not(build: ModuleType, path: str, data: bytes) -> None:
    assert build.compressed(path, data) == {}


def test_what_is_made_beside_a_file_takes_the_place_of_none(build: ModuleType) -> None:
    """A file, or a directory, that has the name already is the application's."""
    text = b"let a = 1;\n" * 200
    files = {
        "pre.js": text,
        "pre.js.gz": b"another",
        "only.gz": b"1",
        "only.gz.br": b"2",
        "a.js": text,
        "a.js.br/b.css": b"x",
    }
    found = build.published(files)
    own = {"archives/pre.js.gz": b"another", "archives/only.gz": b"1", "archives/only.gz.br": b"2"}
    assert {name: data for name, data in found.items() if name.startswith("archives/")} == own
    assert sorted(name for name in found if name.startswith("static/")) == [
        "static/a.js", "static/a.js.br/b.css", "static/a.js.gz", "static/pre.js", "static/pre.js.br", "static/pre.js.gz",
    ]  # fmt: skip
    assert gzip.decompress(found["static/pre.js.gz"]) == text


# ---- The application ----


@pytest.mark.parametrize(
    "factory",
    [
        "board:",
        ":make_app",
        "board:make_app()",
        "bo-ard:x",
        "a:b:c",
        "a..b:c",
        "a b:c",
    ],
)
def test_a_factory_that_is_none(build: ModuleType, source: Path, lock: Callable[[str], Path], factory: str) -> None:
    with pytest.raises(build.Refusal, match=r"tornado_app_factory is '.*'; allowed is package.module:factory"):
        build.check_inputs(str(source), source, lock(""), factory)


@pytest.mark.parametrize(
    "entry",
    ["board:make_app", "a.b_c.D:e1", "_x:_y", "-m board", "-m a.b_c", "{site}/board.py", "thumbor", "my-app_2.x"],
)
def test_what_is_run(build: ModuleType, source: Path, lock: Callable[[str], Path], entry: str) -> None:
    build.check_inputs(str(source), source, lock(""), entry)


@pytest.mark.parametrize("entry", ["-m ", "-m a b", "-m -c", "-m board:x"])
def test_a_module_that_is_none(build: ModuleType, source: Path, lock: Callable[[str], Path], entry: str) -> None:
    with pytest.raises(
        build.Refusal, match=r"tornado_app_command begins with '-m .*'; allowed is '-m' and the name of a"
    ):
        build.check_inputs(str(source), source, lock(""), entry)


@pytest.mark.parametrize("version", ["1.0/..", "a b", "-1", "x" * 65, "1.0\n", ".."])
def test_a_release_name_that_is_none(build: ModuleType, source: Path, tmp_path: Path, version: str) -> None:
    with (
        pytest.raises(build.Refusal, match="tornado_app_version is "),
        build.delivered(str(source), version, tmp_path),
    ):
        pass


def test_a_directory_is_named_as_you_like(build: ModuleType, source: Path, tmp_path: Path) -> None:
    for version in ("", "1.0+local_1"):
        with build.delivered(str(source), version, tmp_path) as found:
            assert (found.place, found.name) == (source, version)


def test_files_that_are_not_there(build: ModuleType, source: Path, tmp_path: Path, lock: Callable[[str], Path]) -> None:
    (tmp_path / "board.tar.gz").touch()
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "nowhere.whl", "board.tar.gz", "empty"):
        place = tmp_path / name
        with pytest.raises(build.Refusal) as refused:
            build.check_inputs(str(place), place, lock(""), "a:b")
        assert str(refused.value).startswith(
            f"tornado_app_source is '{place}'; allowed is a directory with a pyproject.toml, a wheel, or git+https:// "
        )
    with pytest.raises(build.Refusal, match=r"tornado_app_requirements is '.*nowhere', and no such file is there"):
        build.check_inputs(str(source), source, tmp_path / "nowhere", "a:b")


def imported(build: ModuleType, tmp_path: Path, file: Path, entry: str) -> None:
    house = write(tmp_path / "house", {"requirements.txt": ""})
    (house / "wheels").mkdir()
    build.check_import([build.Wheel(file)], house, entry, build.interpreter(HERE["python"]))


@pytest.mark.parametrize(
    ("files", "factory", "line"),
    [
        (
            {"board/__init__.py": "import a_module_that_is_not_there\n"},
            "board:make_app",
            "No module named 'a_module_that_is_not_there'",
        ),
        ({"board/__init__.py": "x = 1\n"}, "board:make_app", "module 'board' has no attribute 'make_app'"),
        ({"board/__init__.py": ""}, "bord:make_app", "No module named 'bord'"),
        ({"board/__init__.py": ""}, "-m board", "No module named board that can be run"),
        ({"board/__init__.py": ""}, "-m bord.chat", "No module named 'bord'"),
        ({"board/__init__.py": ""}, "{site}/board/chat.py", "site-packages/board/chat.py'"),
        (
            {SCRIPTS: "[console_scripts]\nhello = board:main\n"},
            "board",
            "no console script board; this release has: hello",
        ),
        ({SCRIPTS: "[gui_scripts]\nboard = board:main\n"}, "board", "no console script board; this release has: none"),
        ({SCRIPTS: "[console_scripts]\nboard = bord:main\n"}, "board", "No module named bord"),
    ],
)
def test_an_application_that_cannot_be_imported(
    build: ModuleType, tmp_path: Path, files: dict[str, str | bytes], factory: str, line: str
) -> None:
    with pytest.raises(build.Refusal) as refused:
        imported(build, tmp_path, wheel(tmp_path, files), factory)
    message = str(refused.value)
    assert message.startswith("tornado_app_")
    assert f"'{factory}', and " in message
    assert "on the controller failed:\nTraceback" in message
    assert line in message.splitlines()[-1]


def test_a_console_script_is_looked_for_and_not_run(build: ModuleType, tmp_path: Path) -> None:
    """By the metadata of the wheel, whose name may be another one."""
    files: dict[str, str | bytes] = {SCRIPTS: "[console_scripts]\nhello = board.cli:main\n"}
    files |= {"board/__init__.py": "", "board/cli.py": "raise SystemExit(3)\n"}
    imported(build, tmp_path, wheel(tmp_path, files), "hello")


def test_what_an_application_needs_and_the_lock_file_lacks(build: ModuleType, tmp_path: Path) -> None:
    """It may be imported at the first request only."""
    needs = "".join(
        f"Requires-Dist: {need}\n"
        for need in (
            "lent>=2 ; python_version < '3.12'",
            "windows ; sys_platform == 'win32'",
            "x ; extra == 'x'",
            "old (>=2011k)",
        )
    )
    board, lent = build.Wheel(wheel(tmp_path, {}, needs=needs)), build.Wheel(wheel(tmp_path, {}, name="lent"))
    build.check_needs([board], TARGET | {"python": "3.13", "python_full": "3.13.1"})
    for there, has in (([board], "lacks it"), ([board, lent], "has lent==1.0.0")):
        with pytest.raises(build.Refusal) as refused:
            build.check_needs(there, TARGET)
        assert str(refused.value).startswith("tornado_app_requirements: 'board' needs 'lent>=2; python_version < ")
        assert f"and the file {has}; expected what fits." in str(refused.value)


def test_the_import_sees_neither_this_environment_nor_pythonpath(
    build: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lent.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    file = wheel(tmp_path, {"board.py": "import lent\nmake_app = 1\n"})
    with pytest.raises(build.Refusal, match="No module named 'lent'"):
        imported(build, tmp_path, file, "board:make_app")


# ---- All of it ----


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


def test_a_bundle_holds_what_a_host_installs(
    build: ModuleType, housed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given = housed
    result = run_module(build, capsys, **given)
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
    # the same again is there already, and the same bytes when it is made anew
    assert run_module(build, capsys, **given) == result | {"changed": False}
    for file in (bundle, house):
        content = file.read_bytes()
        file.unlink()
        assert run_module(build, capsys, **given) == result
        assert file.read_bytes() == content


def test_an_environment_changes_with_the_requirements_alone(
    build: ModuleType, housed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    given = housed

    def environments() -> list[str]:
        return [target["environment"] for target in run_module(build, capsys, **given)["targets"].values()]

    given["targets"] = [TARGET, TARGET | {"python_full": "3.11.9"}]
    before = environments()
    assert len(set(before)) == 2
    Path(given["source"], "src", "new.py").touch()
    given |= {"entry": "board:__name__", "static": ""}
    assert environments() == before
    Path(given["lock"]).write_text(f"tornado==6.5.2 {HASH}\n")
    assert not set(environments()) & set(before)


@pytest.mark.parametrize("what", ["source", "runner", "lock", "entry", "static"])
def test_another_input_is_another_release(
    build: ModuleType, housed: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path, what: str
) -> None:
    given = housed
    before = run_module(build, capsys, **given)
    if what == "runner":
        given |= {"runner": str(shutil.copytree(given["runner"], tmp_path / "runner"))}
    if what in ("source", "runner"):
        (Path(given[what]) / "src" / "new.py").touch()
    elif what == "lock":
        Path(given["lock"]).write_text(f"tornado==6.5.2 {HASH}\n")
    else:
        given = given | {"entry": "board:__name__"} if what == "entry" else given | {"static": ""}
    after = run_module(build, capsys, **given)
    assert after["changed"] is True
    assert after["release"] != before["release"]


@pytest.mark.parametrize("place", ["inside the source", "elsewhere"])
def test_of_the_lock_file_what_it_says_is_the_release_and_not_its_comments(
    build: ModuleType, housed: dict[str, Any], capsys: pytest.CaptureFixture[str], place: str
) -> None:
    given = housed
    if place == "inside the source":
        given = given | {"lock": f"{given['source']}/src/../requirements.lock"}

    def built(text: str) -> dict[str, Any]:
        Path(given["lock"]).write_text(text)
        return run_module(build, capsys, **given)

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


def test_a_refusal_is_a_failed_task_and_leaves_no_bundle(
    build: ModuleType, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    result = run_module(build, capsys, **(given | {"entry": "board:nothing"}))
    assert result["msg"].startswith("tornado_app_factory is 'board:nothing'")
    assert list(Path(given["build"]).rglob("*.tar")) == []
    # nor does the next run take an unfinished one for done
    assert run_module(build, capsys, **(given | {"entry": "board:nothing"}))["failed"] is True


def test_a_static_directory_that_is_none_leaves_no_bundle(
    build: ModuleType, given: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        result = run_module(build, capsys, **(given | {"static": "board/stattic"}))
        assert result["msg"].startswith("tornado_app_static is 'board/stattic'")
    assert list(Path(given["build"]).rglob("*.tar")) == []


# ---- A wheel ----


def test_a_wheel_is_used_as_it_is(
    build: ModuleType, given: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "handed").mkdir()
    file = wheel(tmp_path / "handed", {"board/__init__.py": "make_app = dict\n", "board/static/a.txt": "a"})
    (tmp_path / "handed" / "requirements.lock").touch()
    given |= {"source": str(file), "lock": "requirements.lock"}  # beside the wheel
    result = run_module(build, capsys, **given)
    assert result["release"] == f"1.0.0+{result['digest'][:8]}"
    (target,) = result["targets"].values()
    with tarfile.open(target["bundle"]) as tar:
        held = tar.extractfile(f"wheels/{file.name}")
        assert held
        assert held.read() == file.read_bytes()
    assert run_module(build, capsys, **(given | {"version": "1.0.0"}))["release"] == "1.0.0"
    message = run_module(build, capsys, **(given | {"version": "1.0.1"}))["msg"]
    assert message == (
        f"tornado_app_version is '1.0.1', and tornado_app_source is '{file}', which is version 1.0.0; allowed is the "
        "wheel's own version, or none."
    )
    wheel(tmp_path / "handed", {"board/__init__.py": "make_app = list\n", "board/static/a.txt": "a"})
    assert run_module(build, capsys, **given)["release"] != result["release"]


def test_a_wheel_with_a_name_that_is_none(build: ModuleType, tmp_path: Path) -> None:
    (file := tmp_path / "board.whl").touch()
    with (
        pytest.raises(build.Refusal, match=r"board\.whl'; allowed is a wheel's own name"),
        build.delivered(str(file), "", tmp_path),
    ):
        pass


def test_a_build_directory_that_cannot_be_is_named(
    build: ModuleType, given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    said = run_module(build, capsys, **given | {"build": str(tmp_path / "file")})["msg"]
    assert said.startswith(f"Building on the controller, in {tmp_path}/file (tornado_app_build), failed: [Errno ")
