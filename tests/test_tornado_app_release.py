"""A release's static files under the hash of their content."""

import gzip
import hashlib
import os
import stat
from pathlib import Path
from types import ModuleType

import pytest
from eyewall_support import load_module, run_module
from tornado.web import StaticFileHandler

CSS = b"body { color: teal }\n" * 100


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return load_module("tornado_app", "tornado_app_release")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def static(tmp_path: Path) -> Path:
    """Return the static files of one release, compressed ones beside."""
    return make(
        tmp_path / "release-1",
        {"app.css": CSS, "app.css.gz": gzip.compress(CSS, mtime=0), "img/logo.svg": b"<svg/>"},
    )


def make(directory: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return directory


def published(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def test_a_files_place_is_what_tornado_calls_its_version(release: ModuleType, static: Path, store: Path) -> None:
    release.publish(static, store)
    for name in ("app.css", "img/logo.svg"):
        version = StaticFileHandler.get_content_version(str(static / name))
        assert (store / version / name).read_bytes() == (static / name).read_bytes()


def test_compressed_forms_are_beside_under_the_same_hash(release: ModuleType, static: Path, store: Path) -> None:
    (static / "app.css.br").write_bytes(b"brotli, let us say")
    release.publish(static, store)
    place = store / hashlib.sha512(CSS).hexdigest()
    assert sorted(path.name for path in place.iterdir()) == ["app.css", "app.css.br", "app.css.gz"]
    assert gzip.decompress((place / "app.css.gz").read_bytes()) == CSS
    assert len(list(store.iterdir())) == 2, "a compressed form is no file of its own"


def test_a_file_that_is_an_archive_is_published_too(release: ModuleType, tmp_path: Path, store: Path) -> None:
    archive = gzip.compress(b"what a page offers for download", mtime=0)
    release.publish(make(tmp_path / "release-1", {"data.tar.gz": archive}), store)
    assert published(store) == {f"{hashlib.sha512(archive).hexdigest()}/data.tar.gz": archive}


def test_equal_content_has_an_equal_date_on_every_host(release: ModuleType, tmp_path: Path) -> None:
    dates = []
    for host in ("a", "b"):
        static = make(tmp_path / host / "static", {"x.js": b"1", "y.js": b"2"})
        os.utime(static / "x.js", (len(host), 1000 + ord(host)))
        (tmp_path / host / "store").mkdir()
        release.publish(static, tmp_path / host / "store")
        dates.append({path.name: path.stat().st_mtime for path in (tmp_path / host / "store").rglob("*.js")})
        # also where the current release is served from
        assert (static / "x.js").stat().st_mtime == dates[-1]["x.js"]
    assert dates[0] == dates[1]


def test_different_content_of_one_size_has_different_dates(release: ModuleType, tmp_path: Path, store: Path) -> None:
    static = make(tmp_path / "release-1", {f"{number}.js": b"%03d" % number for number in range(50)})
    release.publish(static, store)
    dates = {path.stat().st_mtime for path in store.rglob("*.js")}
    assert len(dates) == 50
    # and all lie in the past, or a browser would not trust them
    assert max(dates) <= release.FIRST_DATE + release.DATES == 1_500_000_000


def test_published_again_nothing_changes(release: ModuleType, static: Path, store: Path) -> None:
    release.publish(static, store)
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in store.rglob("*")}
    release.publish(static, store)
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == {
        path: (inode, date) if path.is_file() else (inode, path.stat().st_mtime_ns)
        for path, (inode, date) in before.items()
    }
    assert set(store.rglob("*")) == set(before)


def test_the_next_release_adds_and_the_last_ones_files_stay(
    release: ModuleType, static: Path, store: Path, tmp_path: Path
) -> None:
    release.publish(static, store)
    before = published(store)
    release.publish(make(tmp_path / "release-2", {"app.css": b"new", "img/logo.svg": b"<svg/>"}), store)
    after = published(store)
    assert before.items() < after.items()
    assert after[f"{hashlib.sha512(b'new').hexdigest()}/app.css"] == b"new"
    assert len(after) == len(before) + 1


@pytest.mark.parametrize(
    ("target", "name", "succeed"),
    [(*step, count) for step in ((os, "link"), (Path, "rename")) for count in range(3)],
)
def test_an_interruption_leaves_whole_files_and_the_same_again_finishes(  # noqa: PLR0917 -- pytest gives them by name
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
        release.publish(static, store)
    assert published(store).items() < whole.items()
    assert len(published(store)) == succeed
    monkeypatch.undo()
    release.publish(static, store)
    assert published(store) == whole


# ---- The module around it, with an installation that makes nothing ----


def arguments(root: Path, **given: str) -> dict[str, str]:
    return {
        "root": str(root),
        "release": "1.0",
        "digest": "abc",
        "bundle": str(root / "releases" / "1.0.tar"),
        "python": "python3",
        **given,
    }


@pytest.fixture
def root(tmp_path: Path, static: Path, release: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Path:
    import tarfile  # noqa: PLC0415

    (tmp_path / "opt" / "releases").mkdir(parents=True)
    (tmp_path / "opt" / "static").mkdir()
    with tarfile.open(tmp_path / "opt" / "releases" / "1.0.tar", "w") as tar:
        tar.add(static, "static")
    monkeypatch.setattr(release, "install", lambda _module, _place: None)
    return tmp_path / "opt"


def test_a_release_is_complete_once_it_has_its_manifest(
    release: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = root / "releases" / "1.0"
    place.mkdir()
    (place / "left-by-an-interrupted-run").touch()
    assert run_module(release, capsys, **arguments(root))["changed"] is True
    assert (place / "release.json").is_file()
    assert not (place / "left-by-an-interrupted-run").exists()
    assert not (root / "releases" / "1.0.tar").exists()
    assert published(root / "static")
    # the bundle is gone, and not needed
    assert run_module(release, capsys, **arguments(root))["changed"] is False


def test_a_name_that_is_there_with_other_content_is_refused(
    release: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_module(release, capsys, **arguments(root))
    message = run_module(release, capsys, **arguments(root, digest="other"))["msg"]
    assert message.startswith("tornado_app_version is '1.0', which is on this host already with other content;")


def test_a_check_installs_nothing(release: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_module(release, capsys, check=True, **arguments(root))["changed"] is True
    assert not (root / "releases" / "1.0").exists()


def test_a_strict_umask_does_not_lock_the_application_out(
    release: ModuleType, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.umask(0o077)
    try:
        run_module(release, capsys, **arguments(root))
    finally:
        os.umask(before)
    for path in [root / "releases" / "1.0", *(root / "static").rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode & 0o044 == 0o044, f"{path} is {mode:o}"
        assert not path.is_dir() or mode & 0o011 == 0o011, f"{path} is {mode:o}"
