"""A release on a host: its static files under the hash of their content, its virtualenv, and what a failure leaves."""

import ast
import fcntl
import gzip
import hashlib
import json
import os
import pwd
import re
import shutil
import socket
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args
from support import REPOSITORY
from support.background import Background
from support.host_files import cut, delete, empty, garble, hide
from support.product import helper, load_module, run_module
from support.release_files import CSS, USER, arguments, pack, send
from tornado.web import StaticFileHandler

pytestmark = pytest.mark.slow

SYSTEM_PYTHON = "/usr/bin/python3"  # that every account may execute
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may run a command as another account (setuid(2))")


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return load_module("release")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """Return the static files of one release, with what the build made beside them."""
    return make(
        tmp_path / "release-1" / "static",
        {"app.css": CSS, "app.css.gz": gzip.compress(CSS, mtime=0), "img/logo.svg": b"<svg/>"},
    )


def make(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def publish(release: ModuleType, static: Path, store: Path) -> None:
    """Publish all of the release that has these static files."""
    for file, place in release.publications(static.parent, store):
        release.publish(file, place, store)


def published(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_a_files_place_is_what_tornado_calls_its_version(release: ModuleType, static: Path, store: Path) -> None:
    publish(release, static, store)
    for name in ("app.css", "img/logo.svg"):
        version = StaticFileHandler.get_content_version(str(static / name))
        assert (store / version / name).read_bytes() == (static / name).read_bytes()


def test_compressed_forms_are_beside_under_the_same_hash(release: ModuleType, static: Path, store: Path) -> None:
    (static / "app.css.br").write_bytes(b"brotli, let us say")
    publish(release, static, store)
    place = store / hashlib.sha512(CSS).hexdigest()
    assert sorted(path.name for path in place.iterdir()) == ["app.css", "app.css.br", "app.css.gz"]
    assert gzip.decompress((place / "app.css.gz").read_bytes()) == CSS
    assert len(list(store.iterdir())) == 2, "a compressed form is no file of its own"


def test_what_has_the_name_of_a_compressed_form_is_published_where_it_is_taken_for_none(
    release: ModuleType, tmp_path: Path, static: Path, store: Path
) -> None:
    """Also where its content is that of the file whose compressed form it would be."""
    files = {
        "data.tar.gz": b"download",
        "app.css.gz": b"mine",
        "app.css.br": CSS,
        "x.gz": b"x",
        "x.gz.gz": b"xx",
        "x.gz.br": b"",
    }
    make(static.parent / "archives", files)
    publish(release, static, store)
    before = published(store)
    publish(release, static, store)
    own = {f"archives/{hashlib.sha512(content).hexdigest()}/{name}": content for name, content in files.items()}
    assert published(store) == before | own
    release.withdraw(store)
    assert published(store) == before | own, "the release has them"


def test_equal_content_has_an_equal_date_on_every_host(release: ModuleType, tmp_path: Path) -> None:
    dates = []
    for host in ("a", "b"):
        static = make(tmp_path / host / "static", {"x.js": b"1", "y.js": b"2"})
        os.utime(static / "x.js", (len(host), 1000 + ord(host)))
        (tmp_path / host / "store").mkdir()
        publish(release, static, tmp_path / host / "store")
        dates.append({path.name: path.stat().st_mtime for path in (tmp_path / host / "store").rglob("*.js")})
        # also where the current release is served from
        assert (static / "x.js").stat().st_mtime == dates[-1]["x.js"]
    assert dates[0] == dates[1]


def test_different_content_of_one_size_has_different_dates(release: ModuleType, tmp_path: Path, store: Path) -> None:
    static = make(tmp_path / "release-1" / "static", {f"{number}.js": b"%03d" % number for number in range(50)})
    publish(release, static, store)
    dates = {path.stat().st_mtime for path in store.rglob("*.js")}
    assert len(dates) == 50
    # and all lie in the past, or a browser would not trust them
    assert max(dates) <= release.FIRST_DATE + release.DATES == 1_500_000_000


def test_published_again_nothing_changes(release: ModuleType, static: Path, store: Path) -> None:
    publish(release, static, store)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in store.rglob("*")}
    publish(release, static, store)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == {
        path: (inode, date) if path.is_file() else (inode, path.stat().st_mtime_ns)
        for path, (inode, date) in before.items()
    }
    assert set(store.rglob("*")) == set(before)


def test_the_next_release_adds_and_the_last_ones_files_stay(
    release: ModuleType, static: Path, store: Path, tmp_path: Path
) -> None:
    publish(release, static, store)
    before = published(store)
    publish(release, make(tmp_path / "release-2" / "static", {"app.css": b"new", "img/logo.svg": b"<svg/>"}), store)
    after = published(store)
    assert before.items() < after.items()
    assert after[f"{hashlib.sha512(b'new').hexdigest()}/app.css"] == b"new"
    assert len(after) == len(before) + 1


@pytest.mark.parametrize(
    ("target", "name", "succeed"),
    [(*step, count) for step in ((os, "link"), (Path, "rename")) for count in range(3)],
)
def test_an_interruption_leaves_whole_files_and_the_same_again_finishes(
    release: ModuleType,
    static: Path,
    store: Path,
    monkeypatch: pytest.MonkeyPatch,
    target: object,
    name: str,
    succeed: int,
) -> None:
    real, calls = getattr(target, name), []

    def killed(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > succeed:
            raise KeyboardInterrupt
        return real(*arguments)

    whole = {}
    for path in static.rglob("*"):
        if path.is_file():
            content = path.with_suffix("") if path.suffix == ".gz" else path
            whole[f"{hashlib.sha512(content.read_bytes()).hexdigest()}/{path.relative_to(static)}"] = path.read_bytes()
    monkeypatch.setattr(target, name, killed)
    with pytest.raises(KeyboardInterrupt):
        publish(release, static, store)
    assert published(store).items() < whole.items()
    assert len(published(store)) == succeed
    monkeypatch.undo()
    publish(release, static, store)
    assert published(store) == whole


# ---- The module around it, with an installation that makes nothing ----


def everything(root: Path) -> set[Path]:
    return {path for path in root.rglob("*") if path.name != ".lock"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("releases", "static"):
        (tmp_path / "opt" / name).mkdir(parents=True)
    return tmp_path / "opt"


@pytest.fixture
def sent(static: Path, root: Path, release: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the root with both tar files in it, and installations that make no virtualenv."""
    pack(root / "releases" / "1.0-wheelhouse.tar", {"requirements.txt": ""})
    files = {f"static/{path.relative_to(static)}": path.read_bytes() for path in static.rglob("*") if path.is_file()}
    pack(root / "releases" / "1.0.tar", files)
    monkeypatch.setattr(release.Installer, "make_environment", lambda self: self.environment.mkdir(parents=True))
    monkeypatch.setattr(release.Installer, "make_venv", lambda _self: None)
    return root


def test_a_release_is_complete_once_it_has_its_manifest(
    release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = sent / "releases" / "1.0"
    place.mkdir()
    (place / "left-by-an-interrupted-run").touch()
    assert run_module(release, capsys, **arguments(sent))["changed"] is True
    manifest = json.loads((place / "release.json").read_text())
    named = {str(path.relative_to(sent)): path.stat().st_size for path in place.rglob("*") if path.is_file()}
    named |= {f"static/{path}": len(content) for path, content in published(sent / "static").items()}
    del named["releases/1.0/release.json"]
    assert manifest == {
        "release": "1.0", "digest": "abc", "environment": arguments(sent)["environment"], "sizes": named,
    }  # fmt: skip
    assert len(named) == 6, "three files, and each published"
    assert not (place / "left-by-an-interrupted-run").exists()
    assert list((sent / "releases").iterdir()) == [place], "both tar files are gone"
    assert published(sent / "static")
    # and are not needed
    assert run_module(release, capsys, **arguments(sent))["changed"] is False


def test_nothing_has_a_name_before_it_is_on_the_disk(
    release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power cut itself is in test_power_cut.py; here is the order, on every machine."""
    seen: list[Any] = []

    def look(_place: Path) -> None:
        names = [place.name for kind in ("releases", "environments") for place in (sent / kind).iterdir()]
        seen.append((len(published(sent / "static")), sorted(name for name in names if "tar" not in name)))

    monkeypatch.setattr(release, "sync", look)
    run_module(release, capsys, **arguments(sent))
    environment = arguments(sent)["environment"]
    assert seen == [(0, [".1.0", f".{environment}"]), (3, [".1.0", environment])]
    assert (sent / "releases" / "1.0" / "release.json").exists()


def test_a_name_that_is_there_with_other_content_is_refused(
    release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_module(release, capsys, **arguments(sent))
    before = everything(sent)
    message = run_module(release, capsys, **arguments(sent, digest="other"))["msg"]
    assert message.startswith("tornado_app_version: got '1.0', which is on this host already with other content;")
    assert everything(sent) == before


def test_a_check_installs_nothing(release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = everything(sent.parent)
    assert run_module(release, capsys, check=True, **arguments(sent))["changed"] is True
    assert run_module(release, capsys, check=True, **arguments(sent / "a-bare-host"))["changed"] is True
    assert everything(sent.parent) == before


def test_a_strict_umask_does_not_lock_the_application_out(
    release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0o077)
    try:
        run_module(release, capsys, **arguments(sent))
    finally:
        os.umask(before)
    for path in [sent / "releases" / "1.0", *(sent / "static").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o044 == 0o044, f"{path} is {mode:o}"
        assert not path.is_dir() or mode & 0o011 == 0o011, f"{path} is {mode:o}"
    assert stat.S_IMODE((sent / ".lock").stat().st_mode) == 0o600, "nobody else can hold it"


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("missing", ["bundle", "wheelhouse"])
def test_a_tar_file_that_was_not_sent(
    release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str], missing: str, named: bool
) -> None:
    given = arguments(sent)
    Path(given[missing]).unlink()
    if not named:  # what this run had seen on the host, and another one removed
        del given[missing]
    message = run_module(release, capsys, **given)["msg"]
    assert message.startswith(f"The {missing} of release 1.0 is not on this host, and it is made of that;")


def test_a_run_that_goes_on_without_its_controller_is_waited_for(
    release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = helper("root")
    monkeypatch.setattr(root, "LOCK_SECONDS", 0.2)
    before = everything(sent)
    with (sent / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        message = run_module(release, capsys, **arguments(sent))["msg"]
        assert message == (f"Another run has been changing {sent} for 0.2 s; look for it with: fuser -v {sent}/.lock")
        assert everything(sent) == before, "what it reads is still there"
        monkeypatch.setattr(root, "LOCK_SECONDS", 60)
        # that run finishes the same release, and this one finds it
        given = arguments(sent)
        ends = threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN))
        place = sent / "releases" / "1.0"
        place.mkdir()
        monkeypatch.setattr(release.Installer, "install", lambda _self: pytest.fail("it is there already"))
        ends.start()
        (place / "release.json").write_text("{}")
        monkeypatch.setattr(release.Installer, "is_done", is_done_from_the_second_time_on())
        assert run_module(release, capsys, **given)["changed"] is True
        ends.join()
    assert not Path(given["bundle"]).exists()


def is_done_from_the_second_time_on() -> Any:
    answers = iter([False, True])
    return lambda _self: next(answers)


def test_what_is_given_is_brought_and_leaves_no_trace(tmp_path: Path) -> None:
    root, bundle, there = tmp_path / "root", tmp_path / "of-the-controller.tar", tmp_path / "tmp"
    for directory in (root / "releases", root / "static"):
        directory.mkdir(parents=True)
    pack(bundle, {"nothing": ""})
    given = {"root": root, "release": "1.0", "digest": "", "environment": "e", "python": sys.executable}
    given |= {"user": USER, "data": root, "timeout": "60"}

    def play(*extra: str, **more: Path) -> str:
        arguments = " ".join(f"{name}={value}" for name, value in (given | more).items())
        # as on a host: what Ansible brings has a directory there of its own
        variables = os.environ | {"ANSIBLE_REMOTE_TMP": str(there)}
        command = [
            "ansible",
            "localhost",
            "-i",
            "localhost,",
            "-c",
            "local",
            "-m",
            "eyewall.tornado.release",
            "-a",
            arguments,
            *extra,
        ]
        command += ["--playbook-dir", str(REPOSITORY), "-e", f"ansible_python_interpreter={sys.executable}"]
        return subprocess.run(command, env=variables, capture_output=True, text=True, check=False).stdout

    assert "The bundle of release 1.0 is not on this host" in play()
    said = play(bundle=bundle)
    assert "The wheelhouse of release 1.0 is not on this host" in said, said
    assert bundle.exists(), "what the module removed was the controller's own"
    assert [path for path in there.rglob("*") if path.is_file()] == []
    assert "CHANGED" in play("--check", bundle=tmp_path / "nowhere.tar")


# ---- Real virtualenvs ----


def output(program: Path) -> str:
    return subprocess.run([program], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def with_environment(release: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the root of a host with the release 1.0."""
    root = tmp_path_factory.mktemp("opt")
    for name in ("releases", "static"):
        (root / name).mkdir()
    with patch_module_args(send(root, "1.0")), pytest.raises(SystemExit) as ended:
        release.main()
    assert ended.value.code == 0
    return root


def test_releases_share_an_environment(
    release: ModuleType, with_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = with_environment
    environment = root / "environments" / arguments(root)["environment"]
    assert {path.name for path in environment.iterdir()} == {"environment.json", "requirements.txt", "venv"}
    made = (environment / "environment.json").stat().st_mtime_ns
    given = send(root, "1.1", application="import greeting\nNEW = 1\n")
    Path(given["wheelhouse"]).unlink()  # as on a host that has the environment
    assert run_module(release, capsys, **given)["changed"] is True
    assert (environment / "environment.json").stat().st_mtime_ns == made

    inodes = set()
    for name in ("1.0", "1.1"):
        place = root / "releases" / name
        assert {path.name for path in place.iterdir()} == {"manifest.json", "release.json", "static", "venv"}
        # each script runs its own release's interpreter, the requirements' too
        assert {output(place / "venv" / "bin" / script) for script in ("greet", "board")} == {str(place / "venv")}
        assert [path for path in (place / "venv" / "bin").iterdir() if b"environments" in path.read_bytes()] == []
        (packages,) = (place / "venv" / "lib").glob("*/site-packages")
        inodes.add((packages / "greeting" / "__init__.py").stat().st_ino)
        for package in ("greeting", "board"):
            cached = packages / package / "__pycache__" / f"__init__.{sys.implementation.cache_tag}.pyc"
            assert cached.exists(), "the application cannot write it"
        assert ("NEW" in (packages / "board" / "__init__.py").read_text()) == (name == "1.1")
    assert len(inodes) == 1


def test_what_is_linked_stays_and_scripts_are_the_virtualenvs_own(release: ModuleType, tmp_path: Path) -> None:
    first = "#!{}/bin/python3\n"
    environment, venv = tmp_path / "environments" / "e" / "venv", tmp_path / "releases" / "1.0" / "venv"
    files = {
        "bin/alembic": first.format(environment).encode(),
        "bin/ruff": b"\x7fELF",
        "share/x": b"x",
        "bin/python": b"",
    }
    make(environment, files | {"lib/python3/site-packages/a/b.py": b"b"})
    (environment / "bin" / "alembic").chmod(0o755)
    (environment / "lib64").symlink_to("lib")
    make(venv, {"bin/python": b"its own"})
    (venv / "lib").mkdir()
    (venv / "lib64").symlink_to("lib")
    release.link_environment(environment, venv)
    assert (venv / "lib64").is_symlink()
    for name in ("bin/ruff", "share/x", "lib/python3/site-packages/a/b.py"):
        assert (venv / name).samefile(environment / name)
    shutil.rmtree(environment)
    assert (venv / "bin" / "alembic").read_text() == first.format(venv)
    assert os.access(venv / "bin" / "alembic", os.X_OK)
    assert (venv / "bin" / "python").read_bytes() == b"its own"
    assert (venv / "lib" / "python3" / "site-packages" / "a" / "b.py").read_bytes() == b"b"


def test_an_application_that_cannot_be_imported_leaves_the_disk_as_it_was(
    release: ModuleType, with_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = everything(with_environment)
    given = send(with_environment, "1.2", application="import greetings\n")
    message = run_module(release, capsys, **given)["msg"]
    assert message.startswith(
        "tornado_app_factory is 'board:main', and importing it on this host failed: it ended with exit status 1. "
        "The last lines that it printed:\nTraceback"
    )
    assert message.splitlines()[-1] == "ModuleNotFoundError: No module named 'greetings'"
    assert everything(with_environment) == before


def test_a_wheel_that_is_missing_leaves_the_disk_as_it_was(
    release: ModuleType,
    root: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(root / "releases" / "0.9" / "static", {"app.css": CSS})
    publish(release, root / "releases" / "0.9" / "static", root / "static")
    (root / "environments").mkdir()
    before = everything(root)
    given = send(root, "1.0", lacks=f"missing==2.0 --hash=sha256:{'0' * 64}\n")
    # an environment that a killed run left is no environment
    make(root / "environments" / f".{given['environment']}", {"venv/left": b""})
    message = run_module(release, capsys, **given)["msg"]
    assert message == (
        f"{socket.gethostname()}: the wheelhouse has no wheel of 'missing==2.0' for py3.11.2-x86_64-glibc2.36 with a hash that "
        "the lock file has."
    )
    assert everything(root) == before


# ---- Whose code it is ----

# Written down by code of a release, wherever it stands: as whom it runs.
SPY = (
    "import os; ids = (os.getresuid(), os.getresgid(), os.getgroups());"
    " open({seen!r}, 'a').write(repr(('{place}', ids, dict(os.environ), list(map(os.path.realpath, os.scandir('/proc/self/fd'))),"
    " open('/proc/self/status').read())) + chr(10))\n"
)


@as_root
def test_nothing_of_a_release_is_executed_by_root(
    release: ModuleType, open_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither what is imported, nor what Python executes before that; and the account can write nothing of it."""
    nobody = pwd.getpwnam("nobody")
    root, data, seen = open_path / "opt", open_path / "data", open_path / "data" / "seen"
    for directory in (root / "releases", root / "static", data):
        directory.mkdir(parents=True)
    seen.touch(mode=0o666)
    for directory in (data, seen):
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
    monkeypatch.setenv("ONLY_OF_ANSIBLE", "1")
    spies = {
        place: SPY.format(seen=str(seen), place=place)
        for place in ("spy.pth", "sitecustomize.py", "setup.py", "import")
    }
    given = send(root, "1.0", application=spies.pop("import"), **spies)
    with Path("/etc/shadow").open() as inherited:
        os.set_inheritable(inherited.fileno(), True)
        result = run_module(release, capsys, **given | {"user": "nobody", "data": str(data), "python": SYSTEM_PYTHON})
    assert result.get("changed") is True, result

    ran = [ast.literal_eval(line) for line in seen.read_text().splitlines()]
    assert {"spy.pth", "import"} <= {place for place, *_ in ran}, "the control: it was executed"
    for place, ids, environment, files, status in ran:
        assert ids == ((nobody.pw_uid,) * 3, (nobody.pw_gid,) * 3, [nobody.pw_gid]), place
        wanted = {"HOME": str(data), "USER": "nobody", "LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"}
        assert {name: environment[name] for name in wanted} == wanted
        assert set(environment) - set(wanted) <= {"LC_CTYPE"}, place
        assert "/dev/null" in files, "its input"
        assert "/etc/shadow" not in files
        assert re.search(r"^NoNewPrivs:\s*1$", status, re.M)
        assert re.search(r"^CapEff:\s*0+$", status, re.M)
    assert [path for path in root.rglob("*") if path.stat().st_uid != 0 or path.lstat().st_mode & 0o6000] == []
    assert [path for path in root.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o022] == []


def test_an_import_that_hangs_is_a_sentence(
    release: ModuleType, with_environment: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """It is killed, with what it started in a session of its own, and says where it hung."""
    before = everything(with_environment)
    child = tmp_path / "child"
    code = (
        "import subprocess, time\n"
        f"open({str(child)!r}, 'w').write(str(subprocess.Popen(['sleep', '300'], start_new_session=True).pid))\n"
        "def hang():\n    time.sleep(300)\n\nhang()\n"
    )
    given = send(with_environment, "1.3", application=code)
    message = run_module(release, capsys, **given | {"timeout": 2})["msg"]
    assert message.startswith(
        "tornado_app_factory is 'board:main', and importing it on this host failed: it was killed after 2 s "
        "(tornado_app_start_timeout). The last lines that it printed:\n"
    )
    assert re.search(r'site-packages/board/__init__.py", line 4 in hang', message)
    assert not Path("/proc", child.read_text()).exists()
    assert everything(with_environment) == before


# ---- A tar file that is not as it should be ----


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("/etc/cron.d/board", tarfile.REGTYPE),
        ("../../board", tarfile.REGTYPE),
        ("static/../../../board", tarfile.REGTYPE),
        ("release.json", tarfile.REGTYPE),
        ("venv/pyvenv.cfg", tarfile.REGTYPE),
        ("static/link", tarfile.SYMTYPE),
        ("static/link", tarfile.LNKTYPE),
        ("static/device", tarfile.CHRTYPE),
        ("static/pipe", tarfile.FIFOTYPE),
        ("static", tarfile.DIRTYPE),
    ],
)
def test_what_a_tar_file_may_not_have(
    release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str], name: str, kind: bytes
) -> None:
    with tarfile.open(sent / "releases" / "1.0.tar", "w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, "/etc/shadow"
        archive.addfile(info)
    outside = everything(sent.parent) - everything(sent)
    message = run_module(release, capsys, **arguments(sent))["msg"]
    assert message.startswith("The bundle of release 1.0 cannot be unpacked: it has ")
    assert not (sent / "releases" / "1.0").exists()
    assert everything(sent.parent) - everything(sent) == outside


def test_a_tar_files_modes_and_owners_are_not_taken(
    release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tarfile.open(sent / "releases" / "1.0.tar", "w") as archive:
        info = tarfile.TarInfo("static/tool")
        info.mode, info.uid, info.gid = 0o6777, 12345, 12345
        archive.addfile(info)
    run_module(release, capsys, **arguments(sent))
    found = (sent / "releases" / "1.0" / "static" / "tool").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (os.geteuid(), os.getegid(), 0o644)


@pytest.mark.parametrize("content", [b"", b"no tar file" * 100])
def test_a_tar_file_that_is_none(
    release: ModuleType, sent: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (sent / "releases" / "1.0.tar").write_bytes(content)
    message = run_module(release, capsys, **arguments(sent))["msg"]
    assert message.startswith("The bundle of release 1.0 cannot be unpacked: ")


# ---- A full disk ----


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Give a root on a file system of so many bytes."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(size: int) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], check=False)
        if done.returncode:
            pytest.skip("needs root, and to be allowed to mount a file system")
        for name in ("releases", "static", "environments"):
            (place / name).mkdir()
        return place

    yield mount
    subprocess.run(["umount", place], capture_output=True, check=False)


def full(root: Path) -> str:
    return (
        rf"{socket.gethostname()} has no space left in {root} for release 1\.0: (\d+) bytes were free, and about (\d+) are "
        r"needed \((.+)\)\."
    )


def test_a_disk_that_is_clearly_too_small_is_refused_beforehand(
    release: ModuleType,
    disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = disk(300_000)
    before = everything(root)
    given = send(root, "1.0", application=f"TEXT = '{'x' * 200_000}'\n")
    monkeypatch.setattr(release.Installer, "steps", lambda _self: pytest.fail("it was refused too late"))
    message = run_module(release, capsys, **given)["msg"]
    found = re.fullmatch(full(root), message)
    assert found, message
    assert int(found[1]) < 300_000
    assert int(found[2]) > 800_000, "twice a wheel that is packed, and what is in it"
    assert found[3] == "nothing was unpacked"
    assert everything(root) == before


def test_a_disk_that_gets_full_while_it_is_unpacked(
    release: ModuleType,
    disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(release, "NEED", 0)
    root = disk(300_000)
    given = send(root, "1.0", application=f"TEXT = '{'x' * 100_000}'\n")
    is_as_full_as_before(release, capsys, root, given)


def test_a_disk_that_gets_full_while_the_application_is_installed(
    release: ModuleType,
    disk: Callable[[int], Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root, real = disk(100_000_000), release.Installer.make_venv

    def fill_then_make(installer: Any) -> None:
        (root / "other").write_bytes(b"x" * shutil.disk_usage(root).free)
        try:
            real(installer)
        finally:
            (root / "other").unlink()

    monkeypatch.setattr(release.Installer, "make_venv", fill_then_make)
    is_as_full_as_before(release, capsys, root, send(root, "1.0"))


def is_as_full_as_before(
    release: ModuleType, capsys: pytest.CaptureFixture[str], root: Path, given: dict[str, Any]
) -> None:
    tars = {Path(given[name]) for name in ("bundle", "wheelhouse")}
    before, free = everything(root) - tars, shutil.disk_usage(root).free
    message = run_module(release, capsys, **given)["msg"]
    assert re.fullmatch(full(root), message), message
    assert everything(root) == before
    assert shutil.disk_usage(root).free >= free - 4096  # the lock


# ---- Damage ----


@pytest.fixture(scope="module")
def installed(release: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a host with the releases 1.0 and 1.1, of one environment; it is copied for each test, and never changed."""
    root = tmp_path_factory.mktemp("installed") / "opt"
    for name in ("releases", "static"):
        (root / name).mkdir(parents=True)
    for version in ("1.0", "1.1"):
        with patch_module_args(send(root, version)), pytest.raises(SystemExit) as ended:
            release.main()
        assert ended.value.code == 0
    return root


SITE = f"venv/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
CONTENT = hashlib.sha512(CSS + b"1.1").hexdigest()


@pytest.mark.parametrize("damage", [delete, empty, cut, garble, hide])
@pytest.mark.parametrize(
    "file",
    [
        "releases/1.1/release.json",
        "releases/1.1/manifest.json",
        "releases/1.1/static/app.css",
        "releases/1.1/venv/pyvenv.cfg",
        "releases/1.1/venv/bin/board",
        f"releases/1.1/{SITE}/board/__init__.py",
        f"releases/1.1/{SITE}/greeting/__init__.py",
        f"static/{CONTENT}/app.css",
        "environments/ENVIRONMENT/environment.json",
        "environments/ENVIRONMENT/requirements.txt",
        f"environments/ENVIRONMENT/{SITE}/greeting/__init__.py",
    ],
)
def test_a_damaged_release_is_made_again_in_one_step(
    release: ModuleType,
    installed: Path,
    capsys: pytest.CaptureFixture[str],
    file: str,
    damage: Callable[[Path], None],
) -> None:
    """Whoever reads it finds the damaged one or the whole one, never none: processes of it may be serving."""
    # at the same place, for scripts name it
    kept = installed.with_name("kept")
    subprocess.run(["cp", "-a", installed, kept], check=True)
    path = installed / file.replace("ENVIRONMENT", arguments(installed)["environment"])
    layout = helper("layout")
    known = path.name.endswith(".json") and path.name != "manifest.json"
    try:
        assert layout.Layout(installed).all_damage() == []
        damage(path)
        named = layout.Layout(installed).all_damage()
        if damage is garble and not known:
            assert named == [], "of a release, sizes are compared"
            return
        assert any(str(path) in one or "more of this" in one for one in named), named
        of_environment = path.is_relative_to(installed / "environments")
        kind = layout.ENVIRONMENT if of_environment else layout.RELEASE
        name = arguments(installed)["environment"] if of_environment else "1.1"
        assert name not in layout.Layout(installed).complete(kind), "so it is sent again"
        other = installed / "releases" / "1.1" / "venv" / "bin" / "python"
        with Reader(other) as reader:
            # releases have links to all that they need: it is the next one that needs the environment
            wanted = "1.2" if of_environment else "1.1"
            assert run_module(release, capsys, **send(installed, wanted))["changed"] is True
        assert reader.found == {True}
        left = layout.Layout(installed).all_damage()
        assert [one for one in left if "/releases/" not in one or f"/{wanted}/" in one] == [], (
            "the rest stays, and is named"
        )
        venv = installed / "releases" / wanted / "venv"
        assert output(venv / "bin" / "greet") == str(venv)
        assert (installed / "static" / CONTENT / "app.css").read_bytes() == CSS + b"1.1"
        assert {one.name for one in (installed / "releases").iterdir()} <= {"1.0", "1.1", "1.2"}, "no scratch stays"
    finally:
        shutil.rmtree(installed)
        kept.rename(installed)


class Reader(Background):
    """Looks for a file until it is told to end."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.found = path, set()

    def run(self) -> None:
        while not self.ending.is_set():
            self.found.add(os.path.lexists(self.path))
