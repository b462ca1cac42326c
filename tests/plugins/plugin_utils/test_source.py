"""What a build is given, and what hosts can take: the quick part of what build does."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from support import REPOSITORY
from support.building import BACKENDS, CACHE, PROJECT, write
from support.product import TARGET

PROJECTS = [
    path
    for where in ("app", "runner", "tests/apps/*", "examples/*")
    for path in REPOSITORY.glob(f"{where}/pyproject.toml")
    if "[build-system]" in path.read_text()
]


def test_what_a_build_may_read_is_there(helper: Callable[[str], ModuleType], source: Path, tmp_path: Path) -> None:
    """Known by what it is, and not by its name: a front end is often built into `dist` or `build`."""
    taken = [
        "build/app.js",
        "dist/app.js",
        "tests/__init__.py",
        "src/board/build/x.py",
        "src/board/dist/x.py",
        "old.pyc",
    ]
    taken += ["pyvenv.cfg", ".mypy_cache/theirs.txt", "venv/notes.txt", "my.egg-info/notes.txt", "build/lib/their.js"]
    left = [
        "a/CACHEDIR.TAG",
        "v/pyvenv.cfg",
        "x/__pycache__/y.pyc",
        "src/z.pyc",
        ".git/HEAD",
        ".hg/store",
        "e.egg-info/PKG-INFO",
    ]
    write(source, dict.fromkeys([*taken, *left], CACHE) | {"src/z.py": ""})
    (source / "outside").symlink_to(write(tmp_path / "elsewhere", {"shared.js": ""}))
    found = {file.name for file in helper("source").Source(source, tmp_path / "build").files}
    assert found >= {*taken, "outside/shared.js", "pyproject.toml", "src/z.py"}
    assert not found & set(left)
    # of what setuptools leaves, its own
    text = PROJECT.format(name="board").replace("requires = []", 'requires = ["setuptools"]')
    write(source, {"pyproject.toml": text, "build/bdist.linux-x86_64/x": "", "build/lib.linux-x86_64-3.11/x": ""})
    found = {file.name for file in helper("source").Source(source, tmp_path / "build").files}
    assert [name for name in found if name.startswith("build/")] == ["build/app.js"]


def test_a_link_into_something_huge(
    helper: Callable[[str], ModuleType], source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper("source"), "MOST_FILES", 20)
    (source / "data").symlink_to(write(tmp_path / "disk", {f"{number}.bin": "" for number in range(30)}))
    with pytest.raises(helper("source").Refusal, match=r"with more than 20 files or .* Look where a link leads\."):
        helper("source").Source(source, tmp_path)


def test_a_file_that_goes_while_it_is_read(helper: Callable[[str], ModuleType], source: Path, tmp_path: Path) -> None:
    found = helper("source").Source(source, tmp_path / "build")
    (css := source / "src" / "board" / "static" / "app.css").unlink()
    os.mkfifo(css)
    with pytest.raises(helper("source").Refusal, match=r"app\.css', which cannot be read \(it is no file any more\)"):
        found.digest()


def test_a_python_that_only_root_can_start_is_not_taken(
    helper: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of pyenv or uv below /root."""
    child = helper("child")
    (place := tmp_path / "closed").mkdir(mode=0o700)
    (python := place / "python3.11").write_bytes(b"\x7fELF")
    python.chmod(0o755)
    monkeypatch.setattr(child, "account", lambda: None)
    assert child.starts(python)
    (shim := place / "python3.12").write_text("#!/bin/sh\n")
    shim.chmod(0o755)
    assert not child.starts(shim)
    monkeypatch.setattr(child, "account", lambda: pwd.getpwnam("nobody"))
    assert not child.starts(python)


@pytest.mark.parametrize(
    ("tag", "fits"),
    [
        ("py3-none-any", True),
        ("cp311-cp311-manylinux_2_17_x86_64", True),
        ("cp39-abi3-manylinux2014_x86_64", True),
        ("cp311-cp311-linux_x86_64", True),
        ("cp312-cp312-manylinux_2_17_x86_64", False),
        ("cp311-cp311-manylinux_2_39_x86_64", False),
        ("cp311-cp311-manylinux_2_17_aarch64", False),
        ("cp311-cp311-musllinux_1_2_x86_64", False),
        ("py2-none-any", False),
    ],
)
def test_which_wheels_a_host_can_install(helper: Callable[[str], ModuleType], tag: str, fits: bool) -> None:
    assert helper("builder").fits(f"board-1.0.0-{tag}.whl", TARGET) is fits


@pytest.mark.parametrize(
    ("machine", "glibc", "first"),
    [("x86_64", "2.36", "manylinux_2_36_x86_64"), ("aarch64", "2.41", "manylinux_2_41_aarch64")],
)
def test_platforms_are_those_that_the_hosts_c_library_takes(
    helper: Callable[[str], ModuleType], machine: str, glibc: str, first: str
) -> None:
    names = helper("builder").platforms({"python": "3.11", "machine": machine, "glibc": glibc})
    assert names[0] == first
    assert names[-1] == f"linux_{machine}"
    assert {f"manylinux_2_17_{machine}", f"manylinux2014_{machine}", f"manylinux_2_5_{machine}"} <= set(names)
    assert f"manylinux_2_{int(glibc[2:]) + 1}_{machine}" not in names
    assert len(names) == len(set(names))


@pytest.mark.parametrize("path", [str(path.parent.relative_to(REPOSITORY)) for path in PROJECTS])
def test_what_builds_this_repositorys_packages_is_pinned(helper: Callable[[str], ModuleType], path: str) -> None:
    """Otherwise the next `make lock` is found out by the next deploy."""
    pins = helper("lockfile").for_target("backends", helper("lockfile").read_lock("backends", BACKENDS).pins, TARGET)
    builder = helper("builder").Builder(Path("/nowhere"), ("3.11", ""), [{}, {}, pins])
    needs, _, _ = helper("source").build_system(helper("source").read_project(REPOSITORY / path))
    assert [builder.pinned(Requirement(need), path).name for need in needs]
