"""A lock: requirements, every one pinned and with hashes.

It is a requirements file as `uv pip compile` and `pip-compile` write it, a `pylock.toml` (PEP 751), or a `uv.lock`.
"""

from __future__ import annotations

import json
import re
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import Refusal, run, tool, without_credentials
from packaging.markers import Marker, default_environment
from packaging.pylock import Package, Pylock, PylockValidationError
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

# Names under which an application has its lock.
NAMES = ("pylock.toml", "uv.lock", "requirements.lock", "requirements.txt")
# What other tools write, and the command that makes of it what can be read here.
EXPORTS = {
    "poetry.lock": "poetry export --output requirements.txt",
    "pdm.lock": "pdm export --output requirements.txt",
    "Pipfile.lock": "pipenv requirements --hash > requirements.txt",
}
AGAIN = (
    "Make the lock with: uv lock, or uv pip compile --universal --generate-hashes pyproject.toml -o requirements.txt "
    "(see docs/your-application.md)."
)
HASHES = ("sha256", "sha384", "sha512")
HASH = re.compile(r"--hash[= ]\s*(sha256:[0-9a-fA-F]{64}|sha384:[0-9a-fA-F]{96}|sha512:[0-9a-fA-F]{128})(?=\s|$)")
# Where to look for a package is not what it is: the hashes say that. pip reads such a line in front of the requirements.
INDEX = {
    "-i": "--index-url",
    "--index-url": "--index-url",
    "--pypi-url": "--index-url",
    "--extra-index-url": "--extra-index-url",
    "-f": "--find-links",
    "--find-links": "--find-links",
    "--trusted-host": "--trusted-host",
}
# What pip is told by us in any case, or what a pin with hashes leaves nothing to.
POINTLESS = {"--require-hashes", "--only-binary", "--prefer-binary", "--pre", "--no-deps"}
# The application itself, which exports of a project name too: it is built from its source.
ITSELF = {"-e .", "--editable .", "."}


@dataclass(frozen=True)
class Pin:
    """A requirement of a lock file."""

    requirement: Requirement
    hashes: tuple[str, ...]
    place: str  # file:line
    groups: tuple[str, ...] = ()  # dependency groups of its lock that are installed, for its marker

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        return next(part.version for part in self.requirement.specifier)

    @property
    def statement(self) -> str:
        """All that it says, in one form."""
        return " ".join([str(self.requirement), *(f"--hash={value}" for value in sorted(self.hashes)), *self.groups])

    def line(self, hashes: tuple[str, ...] | None = None) -> str:
        """The same for one target, its marker decided."""
        name = self.requirement.name + (
            f"[{','.join(sorted(self.requirement.extras))}]" if self.requirement.extras else ""
        )
        return " ".join(
            [f"{name}{self.requirement.specifier}", *(f"--hash={value}" for value in hashes or self.hashes)]
        )


@dataclass(frozen=True)
class Lock:
    path: Path
    pins: list[Pin]
    index: list[str]  # lines that say where packages are
    requires_python: SpecifierSet = field(default_factory=SpecifierSet)
    environments: tuple[Marker, ...] = ()  # those that it was made for; empty for all

    def names(self) -> set[str]:
        return {pin.name for pin in self.pins}


def read_lock(variable: str, path: Path, application: str = "") -> Lock:
    """What a lock says; of a `uv.lock`, what it says of `application`. Raises Refusal for what is none, or locks nothing."""
    if path.name in EXPORTS:
        raise Refusal(
            f"{variable}: got '{path}', which only its own tool can read; expected one of {', '.join(NAMES)}. Run: "
            f"{EXPORTS[path.name]}"
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise Refusal(f"{variable}: got '{path}', which is {what}; expected a lock. {AGAIN}") from None
    if path.name == "uv.lock":
        return pylock(variable, path, exported(variable, path, text, application), text)
    if path.suffix == ".toml":
        return pylock(variable, path, text, text)
    return requirements(variable, path, text)


# ---- pylock.toml and uv.lock ----


def exported(variable: str, path: Path, text: str, application: str) -> str:
    """A `uv.lock` as a `pylock.toml`, by uv itself, which asks no index and runs nothing for it.

    It is shown a copy and the application's name: in the place of the lock, uv would look for a workspace in every directory
    above, and for an interpreter, which may be one that a repository brought.
    """
    with tempfile.TemporaryDirectory() as place:
        Path(place, "uv.lock").write_text(text, encoding="utf-8")
        Path(place, "pyproject.toml").write_text(
            f'[project]\nname = {json.dumps(application)}\nversion = "0"\n\n[tool.uv.workspace]\n', encoding="utf-8"
        )
        return run(
            [tool("uv"), "export", "--quiet", "--no-config", "--offline", "--frozen", "--no-default-groups",
             "--no-emit-project", "--no-header", "--format", "pylock.toml", "--project", place],
            f"{variable}: reading '{path}' with uv",
        )  # fmt: skip


def pylock(variable: str, path: Path, text: str, shown: str) -> Lock:
    """What a `pylock.toml` locks; `shown` is the text of the file that a user knows.

    Where it found a package, it says too, and that is not taken: it is one machine's way to an index.
    """
    try:
        lock = Pylock.from_dict(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, PylockValidationError) as error:
        raise Refusal(
            f"{variable}: got '{path}', which is no pylock.toml ({error}); expected a lock. {AGAIN}"
        ) from None
    groups = tuple(sorted(lock.default_groups or ()))
    pins = [
        package_pin(variable, package, place_in(path, shown, package), groups)
        for package in lock.packages
        if not (package.directory and package.directory.path == ".")
    ]
    return Lock(path, pins, [], lock.requires_python or SpecifierSet(), tuple(lock.environments or ()))


def place_in(path: Path, text: str, package: Package) -> str:
    """The line of a package, where tools write it as they do."""
    found = re.search(rf'^name = "{package.name}"\nversion = "{re.escape(str(package.version))}"', text, re.MULTILINE)
    return f"{path}:{text.count(chr(10), 0, found.start()) + 1}" if found else str(path)


def package_pin(variable: str, package: Package, place: str, groups: tuple[str, ...]) -> Pin:
    """A requirement. Raises Refusal for one that is not exactly one set of files."""
    for what, kind in (
        (package.vcs, "a git repository"),
        (package.directory, "a directory"),
        (package.archive, "an address"),
    ):
        if what:
            raise Refusal(elsewhere(variable, package.name, place, kind))
    if not package.version:
        raise Refusal(f"{variable}: got '{package.name}' ({place}) without a version; expected one. {AGAIN}")
    files = [*(package.wheels or ()), *([package.sdist] if package.sdist else ())]
    hashes = [f"{kind}:{value.lower()}" for file in files for kind, value in file.hashes.items() if kind in HASHES]
    if not hashes:
        raise Refusal(
            f"{variable}: got '{package.name}' ({place}) with no hash of {', '.join(HASHES)}; expected one. {AGAIN}"
        )
    marker = f" ; {package.marker}" if package.marker else ""
    return Pin(Requirement(f"{package.name}=={package.version}{marker}"), tuple(hashes), place, groups)


def elsewhere(variable: str, what: str, place: str, kind: str) -> str:
    """The sentence about a package that is at no index."""
    return (
        f"{variable}: got '{what}' ({place}), {kind}; expected name==version with its hashes. Put its wheel on an "
        "index of yours, or make it a part of the application."
    )


# ---- Requirements files ----


def logical_lines(text: str) -> Iterator[tuple[int, str]]:
    """The lines of a requirements file with the number of their first one; continued ones joined, comments gone."""
    first, joined = 0, ""
    for number, line in enumerate(text.splitlines(), start=1):
        first = first if joined else number
        # a comment ends the line that it is on, also a continued one (pip's join_lines)
        comment = re.search(r"(^|\s)#", line)
        if not comment and line.endswith("\\"):
            joined += line[:-1] + " "
            continue
        whole = (joined + (line[: comment.start()] if comment else line)).strip()
        joined = ""
        if whole:
            yield first, whole
    if joined.strip():
        yield first, joined.strip()


def requirements(variable: str, path: Path, text: str) -> Lock:
    """What a requirements file locks."""
    pins, index = [], []
    for number, line in logical_lines(text):
        place = f"{path}:{number}"
        if " ".join(line.split()) in ITSELF:
            continue
        if line.startswith("-"):
            index += option(variable, line, place)
        else:
            pins.append(pin(variable, line, place))
    return Lock(path, pins, index)


def option(variable: str, line: str, place: str) -> list[str]:
    """The lines for pip that a line with an option is. Raises Refusal for one that brings or changes a package."""
    name, _, value = (part.strip() for part in line.replace("=", " ", 1).partition(" "))
    shown = without_credentials(line)
    if name in INDEX:
        if INDEX[name] == "--find-links" and "://" not in value:
            value = str(Path(place.rpartition(":")[0]).parent / value)
        return [f"{INDEX[name]} {value}"]
    if name in POINTLESS:
        return []
    if name in ("-e", "--editable"):
        raise Refusal(
            f"{variable}: got '{shown}' ({place}); expected name==version with its hashes. The application itself is "
            "built from tornado_app_source; anything else in a directory has to be a wheel of an index."
        )
    if name in ("-r", "--requirement", "-c", "--constraint"):
        raise Refusal(f"{variable}: got '{shown}' ({place}); expected one file that says everything. {AGAIN}")
    raise Refusal(
        f"{variable}: got the option '{shown}' ({place}); expected lines name==version --hash=sha256:…, and of options "
        f"{', '.join(sorted(set(INDEX.values())))}."
    )


def pin(variable: str, line: str, place: str) -> Pin:
    """A requirement. Raises Refusal for one that is not exactly one set of files."""
    spec, *options = re.split(r"\s(?=--?[a-z])", line)
    spec, shown = spec.strip(), without_credentials(spec.strip())
    try:
        requirement = Requirement(spec)
    except InvalidRequirement as error:
        if re.match(r"(\.{0,2}/|file:|[a-z+]+://|.+\.(whl|zip|tar\.gz)$)", spec):
            raise Refusal(
                f"{variable}: got '{shown}' ({place}), a file or a directory; expected name==version with its hashes."
            ) from None
        reason = str(error).splitlines()[0]
        raise Refusal(
            f"{variable}: got '{shown}' ({place}); expected name==version --hash=sha256:… ({reason})."
        ) from None
    if requirement.url:
        kind = "a git repository" if requirement.url.startswith("git+") else "an address"
        kind = "a file or a directory of one machine" if requirement.url.startswith("file:") else kind
        raise Refusal(elsewhere(variable, shown, place, kind))
    if strange := [word for word in options if not word.startswith("--hash")]:
        raise Refusal(
            f"{variable}: got '{strange[0]}' for {shown} ({place}); expected --hash=sha256:… and nothing else."
        )
    pins = [part for part in requirement.specifier if part.operator in ("==", "===") and "*" not in part.version]
    if len(pins) != 1 or len(requirement.specifier) != 1:
        raise Refusal(f"{variable}: got '{shown}' ({place}) without an exact version; expected name==version. {AGAIN}")
    hashes = tuple(value.lower() for value in HASH.findall(" ".join(options)))
    if not hashes or len(hashes) != len(options):
        what = "a hash that is none" if options else "no hash"
        raise Refusal(f"{variable}: got '{shown}' ({place}) with {what}; expected --hash=sha256:… behind it. {AGAIN}")
    return Pin(requirement, hashes, place)


# ---- What it says for a target ----


def environment_of(target: dict[str, str]) -> dict[str, str]:
    """What markers ask of a target: pip would decide them by the Python that it runs on."""
    return {str(name): str(value) for name, value in default_environment().items()} | {
        "python_version": target["python"],
        "python_full_version": target["python_full"],
        "implementation_version": target["python_full"],
        "implementation_name": "cpython",
        "platform_python_implementation": "CPython",
        "platform_machine": target["machine"],
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": "",
    }


def for_target(variable: str, pins: list[Pin], target: dict[str, str]) -> dict[str, Pin]:
    """The requirements of one target, by name. Raises Refusal for two of one name."""
    environment, found = environment_of(target), dict[str, Pin]()
    for one in pins:
        marker = one.requirement.marker
        given: dict[str, str | frozenset[str]] = {**environment, "dependency_groups": frozenset(one.groups)}
        if marker is not None and not marker.evaluate(given, context="lock_file"):
            continue
        if one.name in found and found[one.name].statement != one.statement:
            other = found[one.name]
            raise Refusal(
                f"{variable}: got both '{other.requirement}' ({other.place}) and '{one.requirement}' ({one.place}) for "
                f"Python {target['python_full']}; expected one of them."
            )
        found[one.name] = one
    return found


def check_target(variable: str, lock: Lock, target: dict[str, str]) -> None:
    """Refuse a lock that says itself that it is not for a target."""
    full = target["python_full"]
    if not lock.requires_python.contains(full, prereleases=True):
        raise Refusal(
            f"{variable}: got requires-python '{lock.requires_python}' ({lock.path}), and hosts have Python {full} "
            "(tornado_app_python); expected a range with that version in it."
        )
    environment = environment_of(target)
    if lock.environments and not any(marker.evaluate(environment) for marker in lock.environments):
        raise Refusal(
            f"{variable}: got a lock for {' or '.join(map(str, lock.environments))} only ({lock.path}); expected one for "
            f"Python {full} on Linux {target['machine']}, too."
        )
