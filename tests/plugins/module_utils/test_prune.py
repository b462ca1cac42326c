"""What is removed from a host, and what never is."""

import fcntl
import json
import os
import shutil
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.host_files import add_generation, add_release
from support.product import helper, load_module


@pytest.fixture(scope="module")
def release() -> ModuleType:
    return load_module("release")


@pytest.fixture
def prune(tmp_path: Path, release: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Remove what may go from a host in tmp_path; what it removed, by last part of the path."""
    prune, root = helper("prune"), helper("root")
    programs = tmp_path / "conf.d"
    programs.mkdir()
    monkeypatch.setattr(root, "PROGRAMS", programs)

    def run(keep: int) -> list[str]:
        return sorted(Path(path).name for path in prune.prune(tmp_path, tmp_path / "logs", keep))

    return run


@pytest.fixture
def host(tmp_path: Path, release: ModuleType) -> Path:
    """Five generations of four releases, current in this order; 2 and 3 are of one release."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "static").mkdir()
    for number, of in enumerate(["r1", "r2", "r2", "r3", "r4"], 1):
        static = tmp_path / "releases" / of / "static"
        if not static.exists():
            static.mkdir(parents=True)
            (static / "logo.svg").write_text("<svg/>")  # the same in every release
            (static / "app.css").write_text(f"body {{}} /* {of} */")
            for file, published in release.publications(static.parent, tmp_path / "static"):
                release.publish(file, published, tmp_path / "static")
            # of one environment are the first three
            environment = "e2" if of == "r4" else "e1"
            add_release(tmp_path, of, environment)
        manifest = add_generation(tmp_path, f"g{number}", of) / "generation.json"
        os.utime(manifest, (number, number))
        (tmp_path / "logs" / f"g{number}-8000.log").touch()
        (tmp_path / "logs" / f"g{number}-8000.log.1").touch()
    (tmp_path / "current").symlink_to("generations/g5")
    return tmp_path


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_the_newest_stay_and_what_is_theirs(host: Path, prune: Any) -> None:
    assert prune(3) == ["g1", "g2", "r1"]
    assert names(host / "generations") == ["g3", "g4", "g5"]
    assert names(host / "releases") == ["r2", "r3", "r4"], "g3 needs the release that g2 had, too"
    assert names(host / "logs") == sorted(f"g{n}-8000.log{end}" for n in (3, 4, 5) for end in ("", ".1"))
    assert prune(3) == []


def test_static_files_go_with_the_last_release_that_names_them(host: Path, prune: Any) -> None:
    def published() -> list[str]:
        return sorted(path.read_text() for path in (host / "static").rglob("*") if path.is_file())

    before = published()
    assert before == ["<svg/>", *(f"body {{}} /* r{n} */" for n in (1, 2, 3, 4))]
    prune(3)
    assert published() == ["<svg/>", *(f"body {{}} /* r{n} */" for n in (2, 3, 4))], "the logo is named by others"
    assert all(any(place.iterdir()) for place in (host / "static").iterdir()), "no empty directory stays"


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_the_current_one_and_the_one_before_always_stay(host: Path, prune: Any, keep: int) -> None:
    assert prune(keep) == ["g1", "g2", "g3", "r1", "r2"]
    assert names(host / "generations") == ["g4", "g5"]


def test_the_current_one_stays_also_when_it_is_the_oldest(host: Path, prune: Any) -> None:
    (host / "current").unlink()
    (host / "current").symlink_to("generations/g1")
    assert "g1" not in prune(2)
    assert (host / "releases" / "r1").exists()


def test_what_supervisord_knows_stays(host: Path, prune: Any) -> None:
    (host / "conf.d" / "eyewall-app-g2.conf").touch()
    assert prune(2) == ["g1", "g3", "r1"]


def test_a_release_that_waits_for_its_generation_stays(host: Path, prune: Any) -> None:
    add_release(host, "r9")
    assert "r9" not in prune(2)


def test_the_one_that_was_before_the_current_one_stays(host: Path, prune: Any) -> None:
    """As after a rollback of a rollback: it need not be the newest but one."""
    current = host / "generations" / "g5" / "generation.json"
    times = (current.stat().st_atime, current.stat().st_mtime)
    for before, going in (("g1", ["g2", "g3"]), (None, ["g1"])):
        current.write_text(json.dumps({"generation": "g5", "release": "r4", "ports": [8000], "before": before}))
        os.utime(current, times)
        assert [name for name in prune(2) if name.startswith("g")] == going


def test_an_environment_goes_with_the_last_release_that_names_it(host: Path, prune: Any) -> None:
    prune(3)
    assert names(host / "environments") == ["e1", "e2"], "r2 and r3 are of e1"
    (host / "environments" / "unfinished").mkdir()
    (host / "releases" / ".r9").mkdir()  # is made no more: who makes one holds the lock
    for number, of in ((4, "r4"), (3, "r3")):
        shutil.rmtree(host / "generations" / f"g{number}")
        os.utime(add_generation(host, f"g{number}", of) / "generation.json", (number, number))
    (host / "releases" / "r2" / "release.json").unlink()
    assert prune(2) == [".r9", "e1", "g3", "r2", "r3", "unfinished"]
    assert names(host / "environments") == ["e2"]


def test_an_interrupted_prune_is_finished_by_the_next(host: Path, prune: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.rmtree

    def killed(place: Path) -> None:
        if place.name == "r1":
            real(place / "static")
            raise KeyboardInterrupt
        real(place)

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        prune(3)
    assert (host / "releases" / "r1").exists()
    assert not (host / "releases" / "r1" / "release.json").exists(), "it is not whole any more"
    monkeypatch.setattr(shutil, "rmtree", real)
    assert prune(3) == ["g1", "g2", "r1"]
    assert names(host / "releases") == ["r2", "r3", "r4"]


def test_nothing_is_removed_while_a_release_is_being_made(host: Path, prune: Any) -> None:
    (host / "environments" / "in-the-making").mkdir()
    finished = []
    with (host / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def finish() -> None:
            add_release(host, "r9", "in-the-making")
            finished.append(True)
            fcntl.flock(lock, fcntl.LOCK_UN)

        timer = threading.Timer(0.3, finish)
        timer.start()
        assert "in-the-making" not in prune(3)
        assert finished
        timer.join()
