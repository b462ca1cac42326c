"""A release is built once, and what cannot work is refused by looking. No test asks a package index."""

import gzip
import json
import random
import re
import shutil
import tarfile
from pathlib import Path
from types import ModuleType
from typing import Any

import brotli
import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import REPOSITORY
from support.building import HASH, HERE, wheel, write
from support.product import TARGET, load_yaml, run_module

RUNNER_LOCKS = {path.stem: path for path in (REPOSITORY / "requirements").glob("runner*.txt")}
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
def test_a_factory_that_is_none(build: ModuleType, source: Path, factory: str) -> None:
    with pytest.raises(build.Refusal, match=r"tornado_app_factory is '.*'; allowed is package.module:factory"):
        build.check_inputs(str(source), source, factory)


@pytest.mark.parametrize(
    "entry",
    ["board:make_app", "a.b_c.D:e1", "_x:_y", "-m board", "-m a.b_c", "{site}/board.py", "thumbor", "my-app_2.x"],
)
def test_what_is_run(build: ModuleType, source: Path, entry: str) -> None:
    build.check_inputs(str(source), source, entry)


@pytest.mark.parametrize("entry", ["-m ", "-m a b", "-m -c", "-m board:x"])
def test_a_module_that_is_none(build: ModuleType, source: Path, entry: str) -> None:
    with pytest.raises(
        build.Refusal, match=r"tornado_app_command begins with '-m .*'; allowed is '-m' and the name of a"
    ):
        build.check_inputs(str(source), source, entry)


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


def test_a_source_that_is_not_there(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "board.tar.gz").touch()
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "nowhere.whl", "board.tar.gz", "empty"):
        place = tmp_path / name
        with pytest.raises(build.Refusal) as refused:
            build.check_inputs(str(place), place, "a:b")
        assert str(refused.value).startswith(
            f"tornado_app_source is '{place}'; allowed is a directory with a pyproject.toml, a wheel, or git+https:// "
        )


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
        assert f"and the lock {has}; expected what fits." in str(refused.value)


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


def test_every_kind_of_lock_is_found_and_the_same_is_the_same_release(
    build: ModuleType, housed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """None has a word of the runner's: what that needs comes from its own lock."""
    given, found = housed | {"lock": ""}, []
    of_runner(given, f"tornado==6.6.1 {HASH}\nuvloop==0.23.0 {HASH}\n")
    for name, text in LOCKS.items():
        lock = Path(given["source"], name)
        lock.write_text(text)
        found.append(run_module(build, capsys, **given))
        assert run_module(build, capsys, **given | {"lock": name})["release"] == found[-1]["release"]
        lock.unlink()
    assert {result["release"] for result in found} == {found[0]["release"]}
    with tarfile.open(next(iter(found[0]["targets"].values()))["wheelhouse"]) as tar:
        wanted = tar.extractfile("requirements.txt")
        assert wanted
        assert sorted(wanted.read().decode().splitlines()) == [f"tornado==6.5.2 {HASH}", f"uvloop==0.23.0 {HASH}"]


def test_several_locks_or_none(build: ModuleType, given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    source = Path(given["source"])

    def said() -> str:
        return str(run_module(build, capsys, **given | {"lock": ""})["msg"])

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
    message = run_module(build, capsys, **given | {"lock": "nowhere"})["msg"]
    assert message.startswith(f"tornado_app_requirements: got '{source}/nowhere', where no file is; expected a lock. ")


def test_of_what_both_locks_have_the_applications_is_taken_and_only_the_rest_is_part_of_the_release(
    build: ModuleType, housed: dict[str, Any], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    given = housed
    needing(given, tmp_path, "tornado>=6.5,<7", "uvloop>=0.21 ; sys_platform == 'linux'")
    Path(given["lock"]).write_text(f"tornado==6.5.2 {HASH}\n")

    def built(tornado: str, uvloop: str) -> tuple[str, str]:
        of_runner(
            given, f"# made today\ntornado=={tornado} {HASH}\nuvloop=={uvloop} ; sys_platform == 'linux' {HASH}\n"
        )
        result = run_module(build, capsys, **given)
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
def test_a_version_that_the_runner_cannot_run_with(
    build: ModuleType, given: dict[str, Any], capsys: pytest.CaptureFixture[str], line: str, expected: str
) -> None:
    given |= {"runner": str(REPOSITORY / "runner"), "extras": ["gunicorn"]}
    Path(given["lock"]).write_text(f"# made in 2020\n{line} {HASH}\n")
    named = line.replace(" ;", ";").replace("'", '"')
    assert run_module(build, capsys, **given)["msg"] == (
        f"tornado_app_requirements: got '{named}' ({given['lock']}:2); expected {expected}, which the runner needs."
    )
    assert list(Path(given["build"]).rglob("*.tar")) == []


def test_a_version_for_another_target_or_server_is_no_matter(build: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"tornado==6.1 ; python_version < '3.11' {HASH}\ngunicorn==20.0 {HASH}\n")
    lock = build.read_lock("tornado_app_requirements", tmp_path / "lock")
    ours = build.read_lock("runner_lock", RUNNER_LOCKS["runner"])
    pins, (pinned,) = build.union(lock, ours, build.needs_of(REPOSITORY / "runner", []), [TARGET])
    names = {pin.name: pin.version for pin in pinned}
    assert names.keys() == {"gunicorn", "prometheus-client", "tornado", "uvloop"}
    assert names["tornado"] != "6.1"
    # a release is named by both: one is of other hosts
    assert [pin.name for pin in pins].count("tornado") == 2


@pytest.mark.parametrize(("name", "extras"), [("runner", []), ("runner-gunicorn", ["gunicorn"])])
def test_the_runners_lock_has_what_the_runner_needs(build: ModuleType, name: str, extras: list[str]) -> None:
    lock = build.read_lock("runner_lock", RUNNER_LOCKS[name])
    needs = build.needs_of(REPOSITORY / "runner", extras)
    for target in (TARGET, TARGET | {"python": "3.13", "python_full": "3.13.5", "machine": "aarch64"}):
        locked = build.for_target("runner_lock", lock.pins, target)
        build.check_admitted(needs, locked, target)
        assert {canonicalize_name(Requirement(need).name) for need in needs} <= locked.keys()
    assert "://" not in RUNNER_LOCKS[name].read_text()


def test_the_runners_locks_are_part_of_the_collection_and_what_the_role_hands_over() -> None:
    ignored = load_yaml(REPOSITORY / "galaxy.yml")["build_ignore"]
    tasks = (REPOSITORY / "roles/tornado_app/tasks/preflight.yml").read_text()
    line = re.search(r"^ +runner_lock: \"(.*)\"$", tasks, re.MULTILINE)
    assert line
    for server, name in (("tornado", "runner"), ("gunicorn", "runner-gunicorn")):
        variables = {"role_path": f"{REPOSITORY}/roles/tornado_app", "tornado_app_server": server}
        path = Templar(DataLoader(), variables).template(trust_as_template(line[1]))
        assert Path(path).resolve() == RUNNER_LOCKS[name]
        assert not [pattern for pattern in ignored if RUNNER_LOCKS[name].relative_to(REPOSITORY).match(pattern)]


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
