"""A small application with a build backend in its own tree, and what build is given: no index is asked."""

import os
import platform
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from ansible.module_utils.common.arg_spec import ArgumentSpecValidator

from support import REPOSITORY
from support.product import TARGET, helper

HASH = "--hash=sha256:" + "0" * 64
HERE = {
    "python": f"{sys.version_info.major}.{sys.version_info.minor}",
    "python_full": platform.python_version(),
}

CACHE = "Signature: 8a477f597d28d172789f06886806bc55\n"  # of a directory that is none of the source
BACKENDS = REPOSITORY / "requirements" / "build.txt"
PROJECT = """[project]
name = "{name}"
version = "1.0.0"
dependencies = []

[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
# Zips what is below src, in the order and with the modes that it finds, as a careless backend does.
BACKEND = """import os, sys, zipfile

def build_wheel(out, config_settings=None, metadata_directory=None):
    info, files = "{name}-1.0.0.dist-info/", {{}}
    for folder, _, names in os.walk("src"):
        files |= {{os.path.relpath(os.path.join(folder, name), "src"): os.path.join(folder, name) for name in names}}
    with zipfile.ZipFile(os.path.join(out, "{name}-1.0.0-py3-none-any.whl"), "w") as wheel:
        for name, path in files.items():
            wheel.write(path, name)
        wheel.writestr(info + "METADATA", "Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0.0\\n")
        wheel.writestr(info + "WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        members = [*files, info + "METADATA", info + "WHEEL", info + "RECORD"]
        wheel.writestr(info + "RECORD", "".join(name + ",,\\n" for name in members))
    return "{name}-1.0.0-py3-none-any.whl"
"""


def write(top: Path, files: dict[str, str | bytes]) -> Path:
    """Write files below a directory."""
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return top


def project(top: Path, name: str, files: dict[str, str | bytes]) -> Path:
    """Write a project whose backend is in its own tree."""
    own: dict[str, str | bytes] = {
        "pyproject.toml": PROJECT.format(name=name),
        "backend.py": BACKEND.format(name=name),
    }
    return write(top, own | files)


def wheel(path: Path, files: dict[str, str | bytes], name: str = "board", needs: str = "", tag: str = "") -> Path:
    """Return a wheel made by hand, which needs no build tool."""
    tag = tag or "py3-none-any"
    file = path / f"{name}-1.0.0-{tag}.whl"
    info = f"{name}-1.0.0.dist-info"
    metadata = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0.0\n{needs}",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    with zipfile.ZipFile(file, "w") as archive:
        record = {f"{info}/RECORD": "".join(f"{member},,\n" for member in [*files, *metadata, f"{info}/RECORD"])}
        for member, content in {**files, **metadata, **record}.items():
            # a member's date would be now, and the same wheel another one two seconds later
            entry = zipfile.ZipInfo(member)
            entry.external_attr = 0o600 << 16
            archive.writestr(entry, content)
    return file


@pytest.fixture(name="build", scope="session")
def build_fixture() -> ModuleType:
    return helper("build")


@pytest.fixture(name="helper", scope="session")
def helper_fixture(build: ModuleType) -> Callable[[str], ModuleType]:
    """What the module is made of."""
    return helper


@pytest.fixture(name="lock")
def lock_fixture(tmp_path: Path) -> Callable[[str], Path]:
    def written(text: str) -> Path:
        path = tmp_path / "requirements.lock"
        path.write_text(text)
        return path

    return written


@pytest.fixture(name="source")
def source_fixture(tmp_path: Path) -> Path:
    files: dict[str, str | bytes] = {
        "src/board/__init__.py": "make_app = dict\n",
        "src/board/static/app.css": "body { color: teal }\n" * 100,
    }
    return project(tmp_path / "app", "board", files)


@pytest.fixture(name="runner", scope="session")
def runner_fixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a runner, and beside it a build directory in which it is built."""
    runner = project(tmp_path_factory.mktemp("build") / "runner", "eyewall", {"src/eyewall.py": ""})
    lockfile, application = helper("lockfile"), helper("application")
    own = lockfile.for_target("backends", lockfile.read_lock("backends", BACKENDS).pins, TARGET | HERE)
    python = application.python_for_builds([HERE])
    builder = helper("builder").Builder(runner.with_name("built"), python, [{}, {}, own])
    builder.build.mkdir()
    application.built(builder, runner, None, pytest.fail)
    return runner


@pytest.fixture(name="given")
def given_fixture(tmp_path: Path, source: Path, lock: Callable[[str], Path], runner: Path) -> dict[str, Any]:
    """Return the module's arguments: an application, a runner, and nothing that either needs."""
    shutil.copytree(runner.with_name("built"), tmp_path / "build")
    return {
        "name": "board",
        "source": str(source),
        "lock": str(lock("")),
        "backends": str(BACKENDS),
        "runner": str(runner),
        "runner_lock": str(write(tmp_path, {"runner.txt": ""}) / "runner.txt"),
        "entry": "board:make_app",
        "static": "board/static",
        "version": "",
        "build": str(tmp_path / "build"),
        "targets": [TARGET | HERE],
    }


@pytest.fixture(name="open_directory")
def open_directory_fixture() -> Iterator[Path]:
    """Return a directory that every account may write: what is run as another one leaves its traces there."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o777)  # noqa: S103, PTH101 -- that is what it is for
        yield Path(place)


def run_build(**arguments: Any) -> dict[str, Any]:
    """The result of the action `build`, as its task has it."""
    build = helper("build")
    checked = ArgumentSpecValidator(build.OPTIONS).validate(arguments)
    assert not checked.error_messages
    result: dict[str, Any] = build.result_of(checked.validated_parameters)
    return result
