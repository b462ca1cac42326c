"""What is built is what was hashed: from a copy, with pinned backends, by nobody who may do harm. No test asks an index."""

import hashlib
import os
import pwd
import socket
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.building import CACHE, project, run_build, wheel, write
from support.product import TARGET, helper

# each builds, and most of them several times
pytestmark = pytest.mark.slow


@pytest.fixture
def run(given: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Run the module."""
    return lambda **arguments: run_build(**(given | arguments))


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("PIP_NO_INDEX", "UV_NO_INDEX"):
        monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


def members(result: dict[str, Any]) -> dict[str, bytes]:
    """What the application's wheel in a bundle has."""
    (target,) = result["targets"].values()
    with tarfile.open(target["bundle"]) as tar:
        held = tar.extractfile(next(name for name in tar.getnames() if name.startswith("wheels/board-")))
        assert held
        with zipfile.ZipFile(held) as archive:
            return {name: archive.read(name) for name in archive.namelist()}


# ---- What is built ----

# As setuptools: what a build before this one left in build/lib is in the next wheel.
KEEPS = """
import os, shutil
import backend

def build_wheel(out, *_):
    shutil.copytree("src", "build/lib", dirs_exist_ok=True)
    shutil.rmtree("src")
    os.rename("build/lib", "src")
    return backend.build_wheel(out)
"""


def test_what_was_deleted_is_not_built(
    helper: Callable[[str], ModuleType],
    source: Path,
    run: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(helper("builder").Builder, "closure", lambda *_: {})
    text = (source / "pyproject.toml").read_text().replace('"backend"', '"keeps"')
    # what the user's own builds left
    stale: dict[str, str | bytes] = {
        "build/lib/board/stale.py": "",
        "src/board.egg-info/PKG-INFO": "",
        "dist/x.whl": "",
    }
    files: dict[str, str | bytes] = {"src/board/old_admin.py": "", "build/theirs.js": "", "keeps.py": KEEPS}
    write(source, files | stale | {"pyproject.toml": text.replace("requires = []", 'requires = ["setuptools>=70"]')})
    before = set(source.rglob("*"))
    assert "board/old_admin.py" in members(run())
    assert set(source.rglob("*")) == before
    (source / "src" / "board" / "old_admin.py").unlink()
    built = members(run())
    assert {name for name in built if "dist-info" not in name} == {"board/__init__.py", "board/static/app.css"}


def test_the_same_source_is_the_same_bytes_on_any_controller(
    source: Path, given: dict[str, Any], run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of another umask, directory, date, time zone, locale and order of files, and after a build of the user's own."""
    write(source, {"src/board/run.sh": "", "src/board/z.py": "", "src/board/a.py": ""})
    (source / "src" / "board" / "run.sh").chmod(0o755)
    (source / "src" / "board" / "link.css").symlink_to("static/app.css")
    here = run()
    other = source.with_name("another")
    # as another file system lists it
    for path in sorted((path for path in source.rglob("*") if path.is_file()), reverse=True):
        write(other, {str(path.relative_to(source)): path.read_bytes()})
        (other / path.relative_to(source)).chmod(0o700 if path.name == "run.sh" else 0o600)
        os.utime(other / path.relative_to(source), (1, 1))
    write(other, {"dist/board-1.0.0.tar.gz": "", "src/board/__pycache__/a.cpython-311.pyc": "", "tests/test_x.py": ""})
    write(other, {".venv/pyvenv.cfg": "", ".venv/lib/x.py": "", ".tool/CACHEDIR.TAG": CACHE, ".tool/x": ""})
    subprocess.run(["git", "init", "--quiet", str(other)], check=True)
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    umask = os.umask(0o077)
    try:
        there = run(source=str(other), build=f"{given['build']}-2")
    finally:
        os.umask(umask)
    assert (there["release"], there["digest"]) == (here["release"], here["digest"])
    (one,), (two,) = here["targets"].values(), there["targets"].values()
    assert Path(one["bundle"]).read_bytes() == Path(two["bundle"]).read_bytes()
    # what is executable stays so, and each change is a change
    (source / "src" / "board" / "run.sh").chmod(0o644)
    assert run()["release"] != here["release"]


def test_what_cannot_be_read_is_left_out_with_a_warning(source: Path, run: Callable[..., dict[str, Any]]) -> None:
    """None of it is waited for."""
    top = source / "src" / "board"
    (top / ".#__init__.py").symlink_to("user@host.123:456")  # Emacs's lock
    (top / "self").symlink_to("self")
    (top / "loop").symlink_to("..")
    (top / "up").symlink_to(source.parent)
    (top / "kernel").symlink_to("/proc/kmsg")
    os.mkfifo(top / "fifo")
    (top / "link-to-fifo").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as gpg:
        gpg.bind(str(top / "S.gpg-agent"))
    result = run()
    assert set(members(result)) == {
        "board/__init__.py", "board/static/app.css", *(f"board-1.0.0.dist-info/{n}" for n in ("METADATA", "RECORD", "WHEEL")),
    }  # fmt: skip
    said = f"tornado_app_source: left out of '{source}'"
    assert result["warnings"] == [
        f"{said} links that lead nowhere: src/board/.#__init__.py, src/board/self.",
        f"{said} what is neither a file nor a directory: src/board/S.gpg-agent, src/board/fifo, src/board/link-to-fifo.",
        f"{said} links to the kernel's own files: src/board/kernel.",
        f"{said} links that lead back to where they are: src/board/loop, src/board/up.",
    ]


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            lambda top: (top / "x.js").symlink_to("../.git/annex/objects/x"),
            "without its content; expected it. Run: git annex",
        ),
        (lambda top: (top / os.fsdecode(b"\xe9.css")).touch(), "expected UTF-8, as a wheel has it."),
        (
            lambda top: (top / "pyproject.toml").write_text("[project]\nrequires-python = 3.11\n"),
            "got project.requires-python = 3.11 in pyproject.toml; expected a text, in quotes.",
        ),
        (
            lambda top: (top / "pyproject.toml").write_text("[build-system]\nrequires = 'setuptools'\n"),
            "got build-system.requires = 'setuptools' in pyproject.toml; expected a list of texts, in quotes.",
        ),
        (
            lambda top: (top / "pyproject.toml").write_text("[project"),
            "which is no TOML file (Expected ']' at the end of a",
        ),
    ],
)
def test_content_that_cannot_be_taken_is_refused(
    source: Path, run: Callable[..., dict[str, Any]], spoil: Callable[[Path], None], sentence: str
) -> None:
    spoil(source)
    message = run()["msg"]
    assert message.startswith("tornado_app_source: got ")
    assert sentence in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_that_nobody_may_read(source: Path, run: Callable[..., dict[str, Any]]) -> None:
    (source / "backend.py").chmod(0)
    assert "backend.py', which cannot be read (Permission denied)" in run()["msg"]


def test_what_changes_in_between_is_the_release_that_is_built(
    helper: Callable[[str], ModuleType],
    source: Path,
    run: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its name is that of the copy, and not of what was looked at before."""
    first = run()
    digest = helper("source").Source.digest

    def and_then(found: Any) -> str:
        seen: str = digest(found)
        if found.directory == source:
            write(source, {"src/board/__init__.py": "make_app = set\n"})
        return seen

    write(source, {"src/board/__init__.py": "make_app = list\n"})
    with monkeypatch.context() as patch:
        patch.setattr(helper("source").Source, "digest", and_then)
        second = run()
    assert members(second)["board/__init__.py"] == b"make_app = set\n"
    assert len({first["release"], second["release"]}) == 2
    assert run()["release"] == second["release"]
    write(source, {"src/board/__init__.py": "make_app = list\n"})
    third = run()
    assert members(third)["board/__init__.py"] == b"make_app = list\n"


def test_what_is_outside_is_named(source: Path, run: Callable[..., dict[str, Any]]) -> None:
    write(source, {"keeps.py": "def build_wheel(*_): raise OSError('no VERSION')\n"})
    text = (source / "pyproject.toml").read_text().replace('"backend"', '"keeps"')
    write(source, {"pyproject.toml": f'{text}[tool.some.version]\npath = "../VERSION"\n'})
    message = run()["msg"]
    assert message.startswith(f"Building {source} failed:\nTraceback")
    assert (
        "OSError: no VERSION\npyproject.toml names ../VERSION. A build sees tornado_app_source and nothing" in message
    )


def test_the_build_directory_is_its_operators_alone(source: Path, run: Callable[..., dict[str, Any]]) -> None:
    build = source / ".build"  # inside of the source, of which it is no part
    build.mkdir(mode=0o755)
    write(build / "wheels", {"tmpabcd1234/unfinished": ""})
    first = run(build=str(build))
    assert build.stat().st_mode & 0o777 == 0o700
    assert not list(build.rglob("unfinished"))
    assert run(build=str(build)) == first | {"changed": False}


# ---- As whom ----

TRACE = """
import os
with open({path!r}, "a") as file:
    print({who!r}, os.getuid(), os.geteuid(), os.getcwd(), *sorted(os.environ), file=file)
"""


@pytest.mark.usefixtures("no_index")
def test_nothing_that_a_release_brings_is_run_as_root_or_sees_the_operators_environment(
    source: Path,
    given: dict[str, Any],
    run: Callable[..., dict[str, Any]],
    open_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A build backend, a .pth file of a dependency, the import."""
    (traces := open_directory / "traces").touch()
    traces.chmod(0o666)

    def trace(who: str) -> str:
        return TRACE.format(path=str(traces), who=who)

    pth = f"import sys; exec({trace('pth')!r})\n"
    (house := tmp_path / "index").mkdir()
    needed = wheel(house, {"needed.pth": pth}, name="needed")
    Path(given["lock"]).write_text(
        f"--find-links index\nneeded==1.0.0 --hash=sha256:{hashlib.sha256(needed.read_bytes()).hexdigest()}\n"
    )
    backend = (source / "backend.py").read_text()
    write(
        source,
        {"backend.py": trace("backend") + backend, "src/board/__init__.py": trace("import") + "make_app = dict\n"},
    )
    for name in (
        "SSH_AUTH_SOCK",
        "ANSIBLE_VAULT_PASSWORD_FILE",
        "GITHUB_TOKEN",
        "PYTHONPATH",
        "LD_PRELOAD",
        "UV_INDEX_URL",
    ):
        monkeypatch.setenv(name, "")
    assert run()["changed"] is True
    lines = [line.split() for line in traces.read_text().splitlines()]
    assert {line[0] for line in lines} == {"backend", "pth", "import"}
    uid = str(pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid())
    assert {(line[1], line[2]) for line in lines} == {(uid, uid)}
    names = {name for line in lines for name in line[4:]}
    assert names <= {
        "GIT_CEILING_DIRECTORIES", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "HOME", "LC_ALL", "LC_CTYPE", "LOGNAME", "PATH",
        "PYTHONDONTWRITEBYTECODE", "PYTHONHASHSEED", "PYTHONNOUSERSITE", "PYTHONSAFEPATH", "SOURCE_DATE_EPOCH", "TMPDIR", "TZ",
        "USER",
    }  # fmt: skip
    assert not [line for line in lines if str(Path.home()) in line[3] or str(source) in line[3]]


@pytest.mark.parametrize(
    "answer",
    [
        "os.symlink('/etc/hostname', os.path.join(out, name))",
        "os.mkfifo(os.path.join(out, name))",
        "pass",
        "open(os.path.join(out, name), 'w').close()",
        "name = '/etc/hostname'",
        "name = '../home/answer.json'",
    ],
)
def test_a_backend_that_leaves_something_else_than_a_wheel(
    source: Path, run: Callable[..., dict[str, Any]], answer: str
) -> None:
    """A link leads to what it may not read itself."""
    lines = ["import os", "def build_wheel(out, *_):", "    name = 'board-1.0.0-py3-none-any.whl'"]
    write(source, {"backend.py": "\n".join([*lines, f"    {answer}", "    return name"])})
    message = run()["msg"]
    assert message.startswith(
        (
            f"Building {source} failed: its backend 'backend' left no wheel (",
            "board-1.0.0-py3-none-any.whl: got a link or a",
        )
    )


def test_a_build_does_not_wait_for_what_it_left_behind(source: Path, run: Callable[..., dict[str, Any]]) -> None:
    """It has the build's output open, and would read from the operator's keyboard."""
    seconds = 10**7 + os.getpid()  # which no other test's process sleeps
    code = f"import os, subprocess, sys\nassert sys.stdin.read() == ''\nsubprocess.Popen(['sleep', '{seconds}'])\n"
    # where it is root that runs it: an account's processes can be told from others
    code += f"subprocess.Popen(['setsid', '--fork', 'sleep', '{seconds}'])\n" if os.geteuid() == 0 else ""
    write(source, {"backend.py": code + (source / "backend.py").read_text()})
    started = time.monotonic()
    assert run()["changed"] is True
    assert time.monotonic() - started < 300
    assert subprocess.run(["pgrep", "-f", f"^sleep {seconds}$"], check=False, capture_output=True).stdout == b""


def test_an_import_that_never_ends(
    source: Path, run: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper("import_check"), "IMPORT_SECONDS", 1)
    write(source, {"src/board/__init__.py": "print('waiting', flush=True)\nwhile True: pass\n"})
    assert run()["msg"] == (
        "tornado_app_factory is 'board:make_app', and importing it on the controller did not end within 1 s. The last lines of "
        "its output:\nwaiting"
    )


# ---- With what ----


def requires(source: Path, *needs: str) -> None:
    text = (source / "pyproject.toml").read_text()
    write(source, {"pyproject.toml": text.replace("requires = []", f"requires = {list(needs)!r}")})


@pytest.mark.parametrize(
    ("need", "got"),
    [
        ("nobody-pins-this>=1", "'nobody-pins-this>=1'; expected"),
        ("setuptools<60", "'setuptools<60', and setuptools=="),
        ("setuptools @ https://h/setuptools.whl", "'setuptools @ https://h/setuptools.whl', and setuptools=="),
        ("not a requirement", "'not a requirement'; expected a requirement ("),
    ],
)
def test_what_nobody_pinned_is_refused(source: Path, run: Callable[..., dict[str, Any]], need: str, got: str) -> None:
    requires(source, need)
    message = run()["msg"]
    assert message.startswith(f"{source}/pyproject.toml: the build needs {got}")
    if "not a" not in need:
        assert message.endswith("and set tornado_app_build_requirements: build-requirements.lock.")


@pytest.mark.usefixtures("no_index")
@pytest.mark.parametrize("where", ["build_requirements", "lock"])
def test_what_the_user_pinned_is_what_builds(
    source: Path,
    given: dict[str, Any],
    run: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """And what that needs; with other bytes than those it is not installed."""
    (house := tmp_path / "index").mkdir()
    tools = wheel(house, {"tools.py": "NAME = 'made.py'\n"}, name="tools")
    careful = wheel(
        house,
        {"careful.py": "import backend, tools\ndef build_wheel(out, *_):\n    open('src/' + tools.NAME, 'w').close()\n"
                       "    return backend.build_wheel(out)\n"},
        name="careful", needs="Requires-Dist: tools (>=1)\nRequires-Dist: other ; python_version < '3'\n",
    )  # fmt: skip
    requires(source, "careful ~= 1.0", "never ; sys_platform == 'win32'")
    write(source, {"pyproject.toml": (source / "pyproject.toml").read_text().replace('"backend"', '"careful"')})

    def pinned(*files: Path) -> str:
        lines = [
            f"{path.name.split('-')[0]}==1.0.0 --hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}\n"
            for path in files
        ]
        return f"--find-links {house}\n{''.join(lines)}"

    Path(given["lock"]).write_text(pinned(careful, tools) if where == "lock" else f"--find-links {house}\n")
    (source / "build.lock").write_text(pinned(careful, tools) if where == "build_requirements" else pinned(tools))
    assert "made.py" in members(run(build_requirements="build.lock"))
    # the store of the controller is not believed
    stored = next(Path(given["build"]).rglob("tools-1.0.0-*.whl"))
    stored.write_bytes(wheel(tmp_path, {"tools.py": "NAME = 'evil.py'\n"}, name="tools").read_bytes())
    write(source, {"src/board/new.py": ""})
    monkeypatch.setenv("UV_NO_CACHE", "1")
    message = run(build_requirements="build.lock")["msg"]
    assert message.startswith(f"Installing what the build needs ({source}/pyproject.toml) failed:")
    assert "Hash mismatch for `tools==1.0.0`" in message


# ---- What is locked ----


def sdist(path: Path, files: dict[str, str | bytes], name: str = "needed") -> Path:
    """Return a source distribution with a backend in its own tree."""
    top = project(
        path / f"{name}-1.0.0", name, {"PKG-INFO": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n", **files}
    )
    with tarfile.open(path / f"{name}-1.0.0.tar.gz", "w:gz") as tar:
        tar.add(top, top.name)
    return path / f"{name}-1.0.0.tar.gz"


@pytest.mark.usefixtures("no_index")
def test_a_package_without_a_wheel_is_built_here(
    given: dict[str, Any], run: Callable[..., dict[str, Any]], open_directory: Path, tmp_path: Path
) -> None:
    """Its code is run by nobody who may do harm, and only where its hash is the one that was locked."""
    (traces := open_directory / "traces").touch()
    traces.chmod(0o666)
    setup = TRACE.format(path=str(traces), who="setup")
    (tmp_path / "index").mkdir()
    archive = sdist(tmp_path / "index", {"src/needed.py": ""})
    archive = sdist(
        tmp_path / "index",
        {"src/needed.py": "", "backend.py": setup + (tmp_path / "index/needed-1.0.0/backend.py").read_text()},
    )

    def locked(digest: str) -> None:
        Path(given["lock"]).write_text(f"--find-links index\nneeded==1.0.0 --hash=sha256:{digest}\n")

    locked("0" * 64)
    message = run()["msg"]
    assert message.startswith(
        f"tornado_app_requirements: got 'needed==1.0.0' ({given['lock']}:2), which has no wheel for py"
    )
    assert f"needed-1.0.0.tar.gz has another hash than {given['lock']}:2 says." in message
    assert traces.read_text() == "", "neither pip nor uv has run it to look"
    locked(hashlib.sha256(archive.read_bytes()).hexdigest())
    (target,) = run()["targets"].values()
    uid = str(pwd.getpwnam("nobody").pw_uid if os.geteuid() == 0 else os.geteuid())
    assert {line.split()[1] for line in traces.read_text().splitlines()} == {uid}
    with tarfile.open(target["wheelhouse"]) as tar:
        assert tar.getnames() == ["requirements.txt", "wheels/needed-1.0.0-py3-none-any.whl"]
        made = tar.extractfile("wheels/needed-1.0.0-py3-none-any.whl")
        wanted = tar.extractfile("requirements.txt")
        assert made
        assert wanted
        assert wanted.read().decode() == f"needed==1.0.0 --hash=sha256:{hashlib.sha256(made.read()).hexdigest()}\n"


@pytest.mark.usefixtures("no_index")
@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (
            "nothing",
            "which has no wheel for py3.11.2-x86_64-glibc2.36; expected one, or a source distribution in pure Python.",
        ),
        (
            "compiled",
            "and is no pure Python (needed-1.0.0-cp311-cp311-linux_x86_64.whl); expected a version that has a wheel.",
        ),
        ("linked", "and whose source distribution is none; expected one directory in it."),
        ("renamed", "and is built as other-1.0.0-py3-none-any.whl; expected the wheel of that name."),
    ],
)
def test_a_package_that_cannot_be_had(
    given: dict[str, Any], run: Callable[..., dict[str, Any]], tmp_path: Path, there: str, sentence: str
) -> None:
    (tmp_path / "index").mkdir()
    archive = sdist(tmp_path / "index", {"src/needed.py": ""})
    backend = (tmp_path / "index/needed-1.0.0/backend.py").read_text()
    if there == "compiled":
        backend = backend.replace("-py3-none-any", "-cp311-cp311-linux_x86_64")
    elif there == "renamed":
        backend = backend.replace("needed", "other")
    if there == "linked":
        (tmp_path / "index/needed-1.0.0/pyproject.toml").unlink()
        os.mkfifo(tmp_path / "index/needed-1.0.0/pyproject.toml")
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(tmp_path / "index/needed-1.0.0", "needed-1.0.0")
    else:
        archive = sdist(tmp_path / "index", {"backend.py": backend})
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if there == "nothing":
        archive.unlink()
    Path(given["lock"]).write_text(f"--find-links index\nneeded==1.0.0 --hash=sha256:{digest}\n")
    message = run(targets=[TARGET])["msg"]
    assert f"'needed==1.0.0' ({given['lock']}:2)" in message
    assert sentence in message


@pytest.mark.usefixtures("no_index")
def test_hosts_get_the_hash_that_they_compare(
    given: dict[str, Any], run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """A lock file may have others."""
    (tmp_path / "index").mkdir()
    data = wheel(tmp_path / "index", {}, name="needed").read_bytes()
    Path(given["lock"]).write_text(
        f"--find-links index\nneeded==1.0.0 --hash=sha512:{hashlib.sha512(data).hexdigest()}\n"
    )
    (target,) = run()["targets"].values()
    with tarfile.open(target["wheelhouse"]) as tar:
        wanted = tar.extractfile("requirements.txt")
        assert wanted
        assert wanted.read().decode() == f"needed==1.0.0 --hash=sha256:{hashlib.sha256(data).hexdigest()}\n"


@pytest.mark.usefixtures("no_index")
def test_a_package_for_a_newer_python(
    given: dict[str, Any], run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "index").mkdir()
    file = wheel(tmp_path / "index", {}, name="needed", needs="Requires-Python: >=3.14\n")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    Path(given["lock"]).write_text(f"--find-links index\nneeded==1.0.0 --hash=sha256:{digest}\n")
    message = run(targets=[TARGET])["msg"]
    assert message == (
        f"tornado_app_requirements: got 'needed==1.0.0' ({given['lock']}:2), which needs Python >=3.14; expected a version "
        "for Python "
        "3.11.2, which hosts have."
    )


@pytest.mark.usefixtures("no_index")
def test_what_the_runners_lock_brings_has_what_it_needs(
    given: dict[str, Any], run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """From the application's lock, or from the runner's; else it is refused before hosts get it."""
    (tmp_path / "index").mkdir()
    files = [
        wheel(tmp_path / "index", {}, name="server", needs="Requires-Dist: needed>=1\n"),
        wheel(tmp_path / "index", {}, name="needed"),
    ]
    server, needed = (
        f"{file.name.split('-')[0]}==1.0.0 --hash=sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}\n"
        for file in files
    )

    def said(own: str, runners: str) -> dict[str, Any]:
        Path(given["lock"]).write_text(f"--find-links index\n{own}")
        Path(given["runner_lock"]).write_text(runners)
        return run()

    assert said("", server)["msg"].startswith(
        "tornado_app_requirements: got no needed; expected 'needed>=1', which 'server' needs. "
    )
    for own, runners in ((needed, server), ("", server + needed)):
        (target,) = said(own, runners)["targets"].values()
        with tarfile.open(target["wheelhouse"]) as tar:
            assert sorted(tar.getnames()) == ["requirements.txt", *(f"wheels/{file.name}" for file in sorted(files))]


# ---- The application's wheel ----


@pytest.mark.parametrize("static", [True, False])
def test_an_application_for_a_newer_python(source: Path, run: Callable[..., dict[str, Any]], static: bool) -> None:
    """It says so itself, in pyproject.toml before anything is fetched or built, else in its wheel."""
    if static:
        text = (source / "pyproject.toml").read_text()
        write(source, {"pyproject.toml": text.replace("dependencies = []", 'requires-python = ">=3.12"')})
        requires(source, "nobody-pins-this")
    else:
        text = (source / "backend.py").read_text()
        write(source, {"backend.py": text.replace("Version: 1.0.0\\n", "Version: 1.0.0\\nRequires-Python: >=3.12\\n")})
    where = "pyproject.toml" if static else "board-1.0.0-py3-none-any.whl"
    assert run(targets=[TARGET, TARGET | {"python": "3.13", "python_full": "3.13.1"}])["msg"] == (
        f"tornado_app_source: got requires-python '>=3.12' ({where}), and hosts have Python 3.11.2 (tornado_app_python); "
        "expected a range with that version in it, or a newer Python on the hosts."
    )


def test_an_application_for_other_hosts(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    file = wheel(tmp_path, {"board.py": "make_app = 1\n"}, tag="cp312-cp312-linux_x86_64")
    assert run(source=str(file), targets=[TARGET])["msg"].startswith(
        f"tornado_app_source: got {file.name}, which py3.11.2-x86_64-glibc2.36 cannot install; expected a wheel for it, or"
    )


def test_an_application_named_as_the_runner(source: Path, run: Callable[..., dict[str, Any]]) -> None:
    write(source, {"src/eyewall.py": ""})
    assert "got the file 'eyewall.py' in board-1.0.0-py3-none-any.whl, which the runner has too" in run()["msg"]
    project(source, "eyewall", {})
    assert run()["msg"] == (
        "tornado_app_source: got an application named 'eyewall' (the runner's name); expected another name."
    )
