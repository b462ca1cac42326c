"""Wheels on the controller: fetched and checked by their hashes, built with pinned backends, and read."""

from __future__ import annotations

import base64
import csv
import email.parser
import functools
import hashlib
import http.client
import io
import json
import os
import re
import stat
import sys
import tempfile
import tomllib
import urllib.parse
import urllib.request
import zipfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import (
    BUILD_SECONDS,
    IMPORT_SECONDS,
    Refusal,
    Scratch,
    make_venv,
    run,
    scratch,
    tool,
    without_credentials,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.lockfile import Pin, environment_of
from ansible_collections.eyewall.tornado.plugins.plugin_utils.source import build_system, read_project
from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import compatible_tags, cpython_tags
from packaging.utils import canonicalize_name, parse_wheel_filename
from packaging.version import Version

# Calls one hook of a build backend (PEP 517). Its answer goes into a file: what it prints is for people.
HOOK = """
import importlib, json, os, sys
name, path, hook, arguments, answer = json.loads(sys.argv[1])
sys.path[:0] = [os.path.abspath(folder) for folder in path]
module, _, attributes = name.partition(":")
backend = importlib.import_module(module)
for attribute in filter(None, attributes.split(".")):
    backend = getattr(backend, attribute)
called = getattr(backend, hook, None)
with open(answer, "w") as file:
    json.dump(called(*arguments) if called else [], file)
"""
# What stands in the place of a file until another step brings it.
PLACEHOLDERS = {
    b"version https://git-lfs.github.com/spec/": "a pointer of Git LFS. Run: git lfs pull",
    b"version https://hawser.github.com/spec/": "a pointer of Git LFS. Run: git lfs pull",
    b"/annex/objects/": "a pointer of git-annex. Run: git annex get .",
    b"\0GITCRYPT\0": "encrypted by git-crypt. Run: git-crypt unlock",
}
FIRST_BYTES = 64
PLAIN = (stat.S_IFREG, stat.S_IFDIR)
ZIP_DATE = (2020, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Wheel:
    """A wheel on the controller."""

    path: Path

    @functools.cached_property
    def about(self) -> Any:
        """Its metadata."""
        with zipfile.ZipFile(self.path) as archive:
            name = next((n for n in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", n)), None)
            if name is None:
                raise Refusal(f"{self.path.name}: got a wheel without METADATA; expected a wheel.")
            return email.parser.Parser().parsestr(archive.read(name).decode(errors="replace"))

    @property
    def name(self) -> str:
        return canonicalize_name(self.about["Name"])

    @property
    def version(self) -> str:
        return str(self.about["Version"])

    @property
    def needs(self) -> list[str]:
        return self.about.get_all("Requires-Dist") or []

    def is_pure(self) -> bool:
        return all(tag.abi == "none" and tag.platform == "any" for tag in parse_wheel_filename(self.path.name)[3])

    def files(self) -> dict[str, str]:
        """The hash of each file that it installs beside others, by name."""
        with zipfile.ZipFile(self.path) as archive:
            record = next(n for n in archive.namelist() if n.endswith(".dist-info/RECORD"))
            rows = csv.reader(io.StringIO(archive.read(record).decode(errors="replace")))
            return {row[0]: row[1] for row in rows if len(row) > 1 and not row[0].split("/")[0].endswith(".dist-info")}

    def placeholder(self) -> tuple[str, str] | None:
        """A file in it that is none yet, and what it is."""
        with zipfile.ZipFile(self.path) as archive:
            for member in archive.infolist():
                with archive.open(member) as file:
                    start = file.read(FIRST_BYTES)
                for mark, what in PLACEHOLDERS.items():
                    if start.startswith(mark) and (member.file_size < 4096 or b"GITCRYPT" in mark):
                        return member.filename, what
        return None


def with_fields(wheel: Path) -> set[bytes]:
    """What it has that may be filled in by git archive."""
    with zipfile.ZipFile(wheel) as archive:
        contents = (archive.read(member) for member in archive.infolist())
        return {content for content in contents if b"$Format:%" in content}


def digest_of(wheel: Path) -> str:
    """SHA-256 over what a wheel has, and not over how it was zipped."""
    total = hashlib.sha256(f"{wheel.name}\0".encode())
    with zipfile.ZipFile(wheel) as archive:
        for member in sorted(archive.infolist(), key=lambda member: member.filename):
            if not member.filename.endswith((".dist-info/RECORD", "/")):
                mode = member.external_attr >> 16 & 0o100
                total.update(f"{member.filename}\0{mode}\0{member.file_size}\0".encode() + archive.read(member))
    return total.hexdigest()


def in_one_form(data: bytes) -> bytes:
    """A wheel with the same bytes, whatever the umask, the date and the order of files were where it was built."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        members = {member.filename: member for member in old.infolist() if not member.is_dir()}
        record = next(name for name in members if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
        rows = io.StringIO()
        vouch = csv.writer(rows, lineterminator="\n")
        # what a wheel is stands at its end (PEP 427)
        for name in sorted(members, key=lambda name: (".dist-info/" in name, name)):
            if name == record:
                continue
            content = old.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            vouch.writerow([name, f"sha256={digest}", len(content)])
            add(new, name, content, executable=bool(members[name].external_attr >> 16 & 0o100))
        vouch.writerow([record, "", ""])
        add(new, record, rows.getvalue().encode(), executable=False)
    return made.getvalue()


def add(archive: zipfile.ZipFile, name: str, content: bytes, *, executable: bool) -> None:
    info = zipfile.ZipInfo(name, ZIP_DATE)
    info.external_attr = (0o100755 if executable else 0o100644) << 16
    info.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(info, content)


# ---- Targets ----


def platforms(target: dict[str, str]) -> list[str]:
    """The wheel platforms that a host takes, newest C library first (PEP 600): pip takes only what is listed."""
    machine, minor = target["machine"], int(target["glibc"].split(".")[1])
    names = [f"manylinux_2_{number}_{machine}" for number in range(minor, 4, -1)]
    names += [f"{legacy}_{machine}" for legacy in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    return names


def fits(wheel: str, target: dict[str, str]) -> bool:
    """Whether a target's hosts can install a wheel, by its file name."""
    version = tuple(int(number) for number in target["python"].split("."))
    names = platforms(target)
    tags = {
        *cpython_tags(version, platforms=names),
        *compatible_tags(version, f"cp{''.join(map(str, version))}", names),
    }
    return bool(parse_wheel_filename(wheel)[3] & tags)


# ---- Fetching ----


def download(
    requirements: list[str], into: Path, doing: str, python: str, target: dict[str, str] | None = None
) -> None:
    """Bring wheels with pip, hashes checked, as the operator's configuration says.

    No source distribution: pip would run it to ask for its name.
    """
    with tempfile.TemporaryDirectory(dir=into.parent) as place:
        wanted, wheels = Path(place, "requirements.txt"), Path(place, "wheels")
        wheels.mkdir()
        wanted.write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
        tags = [word for name in platforms(target) for word in ("--platform", name)] if target else []
        try:
            run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
                 "--only-binary=:all:", "--require-hashes", "--python-version", python, *tags, "--dest", wheels,
                 "--requirement", wanted],
                doing,
            )  # fmt: skip
        except Refusal as refusal:
            raise Refusal(without_credentials(str(refusal))) from None
        into.mkdir(exist_ok=True)
        for wheel in wheels.iterdir():
            wheel.rename(into / wheel.name)


def fetch_source(pin: Pin, index: list[str], build: Path) -> tuple[str, bytes]:
    """Bring the source distribution of a requirement, hash checked, and run nothing of it; its file name and content.

    uv is told that its metadata is known, so that it does not build it to ask, and says where it is.
    """
    name = f"{pin.requirement.name}=={pin.version}"
    doing = f"Looking for the source distribution of {name} ({pin.place})"
    told = f'[[dependency-metadata]]\nname = "{pin.name}"\nversion = "{pin.version}"\nrequires-dist = []\n'
    # closed to others, because a line of an index may have a password
    with tempfile.TemporaryDirectory(dir=build) as place:
        Path(place, "uv.toml").write_text(told)
        Path(place, "wanted.txt").write_text("".join(f"{line}\n" for line in [*index, name]))
        command = [tool("uv"), "pip", "compile", "--quiet", "--no-deps", "--no-header", "--format", "pylock.toml"]
        try:
            run([*command, "--directory", place, "wanted.txt", "--output-file", "pylock.toml"], doing)
        except Refusal as refusal:
            raise Refusal(without_credentials(str(refusal))) from None
        source = tomllib.loads(Path(place, "pylock.toml").read_text())["packages"][0].get("sdist", {})
        url = source.get("url") or (Path(place, source["path"]).resolve().as_uri() if "path" in source else None)
    if not url:
        raise Refusal(f"{doing} failed: no index has one.")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 -- it is the operator's index that named it
            data = answer.read()
    except (OSError, http.client.HTTPException) as error:
        # the latter quotes a part of the address, which may be a password
        why = error if isinstance(error, OSError) else type(error).__name__
        raise Refusal(f"{doing} failed: {without_credentials(url)}: {why}") from None
    if not any(hashlib.new(kind, data).hexdigest() == value for kind, value in (one.split(":") for one in pin.hashes)):
        raise Refusal(f"{doing} failed: {without_credentials(url)} has another hash than {pin.place} says.")
    return PurePosixPath(urllib.parse.urlsplit(url).path).name, data


# ---- Building ----


@dataclass
class Builder:
    """Builds wheels with backends that are pinned, in a Python of the controller, as an account that is not root."""

    build: Path
    python: tuple[str, str]  # version, interpreter
    pins: list[dict[str, Pin]]  # by name; the first that fits is taken
    index: list[str] = field(default_factory=list)

    @property
    def fingerprint(self) -> str:
        """Everything but the source that a wheel is made of."""
        said = [self.python[0], *(pin.statement for pins in self.pins for pin in pins.values())]
        return hashlib.sha256("\n".join(said).encode()).hexdigest()

    def closure(self, needs: list[str], where: str) -> dict[str, tuple[Pin, Wheel]]:
        """What a build needs, and what that needs, by name: each as pinned, and fetched if it is not here."""
        target = {"python": self.python[0], "python_full": f"{self.python[0]}.0", "machine": os.uname().machine}
        environment = environment_of(target)
        found: dict[str, tuple[Pin, Wheel]] = {}
        asked = [(parsed(need, where), where, {""}) for need in needs]
        while asked:
            wanted: dict[str, tuple[Pin, set[str]]] = {}
            for need, who, extras in asked:
                if need.marker is None or any(need.marker.evaluate(environment | {"extra": extra}) for extra in extras):
                    pin = self.pinned(need, who)
                    wanted[pin.name] = (pin, {"", *need.extras} | wanted.get(pin.name, (pin, set()))[1])
            fresh = [pin for name, (pin, _) in wanted.items() if name not in found]
            found |= self.fetched(fresh)
            asked = [
                (parsed(text, pin.name), pin.name, wanted[pin.name][1])
                for pin in fresh
                for text in found[pin.name][1].needs
            ]
        return found

    def pinned(self, need: Requirement, who: str) -> Pin:
        """The pin for what a build needs. Raises Refusal where there is none that fits."""
        name = canonicalize_name(need.name)
        there = [pins[name] for pins in self.pins if name in pins]
        for pin in there:
            if not need.url and need.specifier.contains(pin.version, prereleases=True):
                return pin
        has = f", and {there[0].requirement} is pinned ({there[0].place})" if there else ""
        raise Refusal(
            f"{who}: the build needs '{need}'{has}; expected what is pinned with hashes. Run: echo '{need}' | uv pip compile "
            "--universal --generate-hashes --no-emit-index-url - -o build-requirements.lock, and set "
            "tornado_app_build_requirements: build-requirements.lock."
        )

    def fetched(self, pins: list[Pin]) -> dict[str, tuple[Pin, Wheel]]:
        """Their wheels, kept between runs. Their hashes are checked again where they are installed."""
        store = self.build / "backends" / f"py{self.python[0]}"
        store.parent.mkdir(parents=True, exist_ok=True)

        def here() -> dict[str, tuple[Pin, Wheel]]:
            there = {parse_wheel_filename(path.name)[:2]: Wheel(path) for path in store.glob("*.whl")}
            keys = {pin: (canonicalize_name(pin.name), Version(pin.version)) for pin in pins}
            return {pin.name: (pin, there[key]) for pin, key in keys.items() if key in there}

        if lacking := [pin for pin in pins if pin.name not in here()]:
            lines = [*self.index, *(pin.line() for pin in lacking)]
            download(lines, store, f"Getting what the build needs ({lacking[0].requirement})", self.python[0])
        return here()

    def wheel(self, place: Scratch, project: Path, what: str) -> Path:
        """Build the wheel of a directory in a Scratch. Raises Refusal with the reason that the backend gave."""
        where = f"{what}/pyproject.toml"
        about = read_project(project)
        needs, backend, path = build_system(about)
        if outside := [folder for folder in path if not (project / folder).resolve().is_relative_to(project.resolve())]:
            raise Refusal(f"{where}: got backend-path '{outside[0]}'; expected a directory inside.")
        answer, out = place.home / "answer.json", place.place / "out"
        out.mkdir()  # now, and where nothing can be put in its place
        place.give(out)

        def call(hook: str, seconds: int, *arguments: str) -> Any:
            answer.unlink(missing_ok=True)
            words = json.dumps([backend, path, hook, arguments, str(answer)])
            place.run([python, "-c", HOOK, words], f"Building {what}", seconds, cwd=project)
            return json.loads(place.take(answer))

        try:
            python = self.environment(place, needs, where)
            if more := call("get_requires_for_build_wheel", BUILD_SECONDS):
                python = self.environment(place, [*needs, *more], where)
            name = str(call("build_wheel", BUILD_SECONDS, str(out)))
            parse_wheel_filename(name)
            made = place.place / name
            made.write_bytes(in_one_form(place.take(out / name)))
        except (zipfile.BadZipFile, StopIteration, ValueError, OSError) as error:
            raise Refusal(f"Building {what} failed: its backend '{backend}' left no wheel ({error}).") from None
        except Refusal as refusal:
            raise Refusal(str(refusal).replace(str(project), what) + advice(about)) from None
        return made

    def environment(self, place: Scratch, needs: list[str], where: str) -> Path:
        """The Python of a virtualenv with what a build needs."""
        found = self.closure(needs, where)
        lines = [pin.line() for pin, _ in found.values()]
        stores = sorted({wheel.path.parent for _, wheel in found.values()})
        return make_venv(place, self.python[1], lines, stores, f"Installing what the build needs ({where})")

    def of_source(self, pin: Pin) -> Path:
        """The wheel of a requirement that has none, where its source distribution is pure Python."""
        place_of = self.build / "sources" / hashlib.sha256(f"{pin.statement}\n{self.fingerprint}".encode()).hexdigest()
        if found := list(place_of.glob("*.whl")):
            return found[0]
        what = f"{pin.requirement.name}=={pin.version} ({pin.place}), which has no wheel for its hosts,"
        with scratch() as place:
            name, data = fetch_source(pin, self.index, self.build)
            archive = place.place / name
            archive.write_bytes(data)
            archive.chmod(0o644)
            tree = place.place / "source"
            tree.mkdir()
            place.give(tree)
            unpack = (
                (self.python[1], "-I", "-m", "zipfile", "--extract", archive, tree)
                if archive.suffix == ".zip"
                else ("/bin/tar", "--extract", "--no-same-owner", "--file", archive, "--directory", tree)
            )
            place.run(unpack, f"Unpacking {archive.name}", IMPORT_SECONDS)
            made = self.wheel(place, project_in(tree, what), what)
            wheel = Wheel(made)
            if not wheel.is_pure():
                raise Refusal(
                    f"tornado_app_requirements: got {what} and is no pure Python ({made.name}); "
                    "expected a version that has a wheel."
                )
            if (wheel.name, wheel.version) != (pin.name, pin.version):
                raise Refusal(
                    f"tornado_app_requirements: got {what} and is built as {made.name}; expected the wheel of that name."
                )
            keep(place_of, **{made.name: made.read_bytes()})
        return place_of / made.name


def advice(about: dict[str, Any]) -> str:
    """What a build may have lacked: what pyproject.toml names outside."""
    outside = sorted(set(re.findall(r"'(\.\./[^']*)'", repr(about))))
    if not outside:
        return ""
    return (
        f"\npyproject.toml names {', '.join(outside)}. A build sees tornado_app_source and nothing beside it; a link inside it "
        "brings what it leads to."
    )


def project_in(tree: Path, what: str) -> Path:
    """The directory that a source distribution has. We look into it: so nothing there leads elsewhere, or is waited for."""
    found = list(tree.iterdir())
    paths = [*found, *(path / "pyproject.toml" for path in found)]
    if (
        len(found) != 1
        or not found[0].is_dir()
        or any(stat.S_IFMT(p.lstat().st_mode) not in PLAIN for p in paths if os.path.lexists(p))
    ):
        raise Refusal(
            f"tornado_app_requirements: got {what} and whose source distribution is none; expected one directory in it."
        )
    return found[0]


def parsed(text: str, who: str) -> Requirement:
    try:
        return Requirement(text)
    except InvalidRequirement as error:
        raise Refusal(
            f"{who}: the build needs '{text}'; expected a requirement ({str(error).splitlines()[0]})."
        ) from None


def keep(directory: Path, **files: bytes) -> None:
    """Put files into a directory of their own, which is there whole or not at all."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as unfinished:
        kept = Path(unfinished, "kept")
        kept.mkdir()
        for name, data in files.items():
            (kept / name).write_bytes(data)
        kept.rename(directory)
