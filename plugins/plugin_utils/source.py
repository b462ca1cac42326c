"""What a source directory holds: every file that a build may read, its bytes hashed, and a copy for the build.

A build sees the copy and nothing else, so that what is built is what was hashed, and nothing is written into the directory of
the user. Links are followed. What is left out is what tools made of the rest, known by what is in it rather than by a name.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import DATE, Refusal
from ansible_collections.eyewall.tornado.plugins.plugin_utils.git import top_of
from packaging.utils import canonicalize_name

VARIABLE = "tornado_app_source"
# What version control keeps for itself. (What a backend asks git is told apart: git.History.)
VERSION_CONTROL = {".git", ".hg", ".svn", ".bzr", ".jj"}
# https://bford.info/cachedir/: mypy's, pytest's, ruff's, tox', Cargo's directories have it
CACHE = ("CACHEDIR.TAG", b"Signature: 8a477f597d28d172789f06886806bc55")
# What a link may lead to that is no file, though it looks like one, and some of it never ends.
KERNEL = {"proc", "sys", "dev"}
# More than any wheel: a link has led to a home directory or a disk.
MOST_FILES, MOST_BYTES = 200_000, 8 * 1024**3
# Build backends, and what they use, that ask git for a version or for the files that belong to a package.
ASK_GIT = {
    "dunamai", "flit-scm", "hatch-vcs", "pbr", "pdm-backend", "poetry-core", "poetry-dynamic-versioning", "poetry",
    "setuptools-git", "setuptools-git-versioning", "setuptools-scm", "uv-dynamic-versioning", "vcs-versioning", "versioneer",
    "versioningit",
}  # fmt: skip


def read_project(directory: Path) -> dict[str, Any]:
    """What pyproject.toml says; nothing where there is none, as in old source distributions."""
    path = directory / "pyproject.toml"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig")) if path.exists() else {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Refusal(f"{VARIABLE}: got '{path}', which is no TOML file ({error}).") from None


def value_of(project: dict[str, Any], table: str, key: str, default: Any) -> Any:
    """A value of pyproject.toml. Raises Refusal for one that is of another kind than its default."""
    found = project.get(table, {})
    value = found.get(key, default) if isinstance(found, dict) else found
    words = [value] if isinstance(default, str) else value
    if type(value) is not type(default) or not all(isinstance(word, str) for word in words):
        kind = "a text" if isinstance(default, str) else "a list of texts"
        raise Refusal(f"{VARIABLE}: got {table}.{key} = {value!r} in pyproject.toml; expected {kind}, in quotes.")
    return value


def build_system(project: dict[str, Any]) -> tuple[list[str], str, list[str]]:
    """What a build needs, its backend, and where in the source that is (PEP 517, PEP 518)."""
    return (
        value_of(project, "build-system", "requires", ["setuptools"]),
        value_of(project, "build-system", "build-backend", "setuptools.build_meta:__legacy__"),
        value_of(project, "build-system", "backend-path", list[str]()),
    )


def required_names(project: dict[str, Any]) -> set[str]:
    """The names of what a build needs."""
    found = (re.match(r"[\w.-]+", need.strip()) for need in build_system(project)[0])
    return {canonicalize_name(name[0]) for name in found if name}


def read_file(path: Path) -> bytes:
    """What a file holds, if it is still one: in the place of one that has gone, a FIFO would be waited for."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            if stat.S_ISREG(os.fstat(handle).st_mode):
                return file.read()
        reason = "it is no file any more"
    except OSError as error:
        reason = str(error.strerror)
    raise Refusal(f"{VARIABLE}: got '{path}', which cannot be read ({reason}); expected a file that can.")


@dataclass
class File:
    name: str  # below the top of the copy
    path: Path
    executable: bool


def identity_of(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


@dataclass
class Source:
    """A source directory as it is now. Raises Refusal for what is content and cannot be taken."""

    directory: Path
    build: Path  # of the controller, which may lie inside
    fence: Path | None = None  # what links may lead to, where the source is from elsewhere
    project: dict[str, Any] = field(default_factory=dict)  # pyproject.toml
    files: list[File] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.project, self.bytes = read_project(self.directory), 0
        self.uses_setuptools = "setuptools" in required_names(self.project)
        top = top_of(self.directory) or self.directory
        # where it lies in its repository: backends look for .gitignore above, as far as there is a .git
        self.prefix = self.directory.relative_to(top).as_posix()
        above = [folder for folder in self.directory.parents if folder == top or top in folder.parents]
        for folder in reversed(above):
            for name in (".gitignore", ".gitattributes"):
                if (folder / name).is_file():
                    self.look(folder / name, (folder / name).relative_to(top).as_posix(), ())
        self.walk(self.directory, self.prefix, (identity_of(self.directory),))
        for why, names in self.left_out.items():
            some = f"{', '.join(names[:5])} and {len(names) - 5} more" if len(names) > 5 else ", ".join(names)
            self.warnings.append(f"{VARIABLE}: left out of '{self.directory}' {why}: {some}.")

    def leave_out(self, why: str, path: Path) -> None:
        self.left_out.setdefault(why, []).append(os.path.relpath(path, self.directory))

    def walk(self, folder: Path, name: str, chain: tuple[tuple[int, int], ...]) -> None:
        """Look at what is in a directory, in an order that no file system decides."""
        try:
            names = sorted(entry.name for entry in os.scandir(folder))
        except OSError as error:
            raise Refusal(
                f"{VARIABLE}: got '{folder}', which cannot be read ({error.strerror}); expected a directory that can."
            ) from None
        if folder != self.directory:  # which may well be a virtualenv, too (python -m venv .)
            if (
                CACHE[0] in names
                and (folder / CACHE[0]).is_file()
                and (folder / CACHE[0]).read_bytes()[:43] == CACHE[1]
            ):
                return
            if "pyvenv.cfg" in names:  # a virtualenv
                return
        for one in names:
            self.look(folder / one, one if name == "." else f"{name}/{one}", chain)

    def look(self, path: Path, name: str, chain: tuple[tuple[int, int], ...]) -> None:
        """Take a file, go into a directory, or say why not."""
        try:
            name.encode()
        except UnicodeEncodeError:
            raise Refusal(
                f"{VARIABLE}: got the file name {os.fsencode(path)!r}; expected UTF-8, as a wheel has it."
            ) from None
        if path.name in VERSION_CONTROL:
            return
        linked = path.is_symlink()
        try:
            status = path.stat()
        except OSError as error:
            if linked and ".git/annex/objects/" in str(path.readlink()):
                raise Refusal(
                    f"{VARIABLE}: got '{path}' without its content; expected it. Run: git annex get ."
                ) from None
            if not linked:
                raise Refusal(f"{VARIABLE}: got '{path}', which cannot be read ({error.strerror}).") from None
            self.leave_out("links that lead nowhere", path)
            return
        if linked and self.fence and not path.resolve().is_relative_to(self.fence):
            self.leave_out("links that lead out of its repository", path)
        elif linked and set(path.resolve().parts[1:2]) & KERNEL:
            self.leave_out("links to the kernel's own files", path)
        elif stat.S_ISDIR(status.st_mode):
            self.enter(path, name, chain)
        elif not stat.S_ISREG(status.st_mode):
            self.leave_out("what is neither a file nor a directory", path)
        # what Python made of the file beside it; one without that is the application's
        elif not (path.suffix == ".pyc" and path.with_suffix(".py").exists()):
            self.add(File(name, path, bool(status.st_mode & 0o100)), status.st_size)

    def add(self, file: File, size: int) -> None:
        self.files.append(file)
        self.bytes += size
        if len(self.files) > MOST_FILES or self.bytes > MOST_BYTES:
            raise Refusal(
                f"{VARIABLE}: got '{self.directory}' with more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB, '{file.path}' "
                "among them; expected an application's source. Look where a link leads."
            )

    def enter(self, path: Path, name: str, chain: tuple[tuple[int, int], ...]) -> None:
        """Go into a directory that is part of the source."""
        here = identity_of(path)
        if path.is_symlink() and (here in chain or path.resolve() in self.directory.parents):
            self.leave_out("links that lead back to where they are", path)
        elif path.name != "__pycache__" and not self.is_made(path, here):
            self.walk(path, name, (*chain, here))

    def is_made(self, path: Path, here: tuple[int, int]) -> bool:
        """Whether we made a directory, or setuptools, which would take files from it that are long gone."""
        if path.suffix == ".egg-info" and (path / "PKG-INFO").is_file():
            return True
        if path.parent == self.directory / "build" and self.uses_setuptools:
            return path.name == "lib" or path.name.startswith(("lib.", "bdist.", "temp.", "scripts-"))
        return self.build.exists() and here == identity_of(self.build)

    def asks_git(self) -> bool:
        return bool(required_names(self.project) & ASK_GIT) or (self.directory / "versioneer.py").exists()

    def digest(self) -> str:
        return self.copy(None)

    def copy(self, top: Path | None) -> str:
        """Copy it below a directory, with the same dates and modes wherever it is built; the digest of what was copied."""
        total = hashlib.sha256(f"{self.prefix}\0".encode())
        for file in self.files:
            data = read_file(file.path)
            total.update(f"{file.name}\0{file.executable:d}\0{len(data)}\0".encode() + data)
            if top:
                place = top / file.name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_bytes(data)
                place.chmod(0o755 if file.executable else 0o644)
        if top:
            (top / self.prefix).mkdir(parents=True, exist_ok=True)
            (top / ".git").mkdir()  # here the search for .gitignore ends, and not in a directory of somebody else's
            for path in (top, *top.rglob("*")):
                os.utime(path, (int(DATE), int(DATE)))
                if path.is_dir():
                    path.chmod(0o755)
        return total.hexdigest()
