"""A lock file: requirements, every one pinned and with hashes, as `uv pip compile` and `pip-compile` write them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.eyewall.tornado.plugins.module_utils.child import Refusal, without_credentials
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

AGAIN = (
    "Make the file again with: uv pip compile --universal --generate-hashes --no-emit-index-url pyproject.toml "
    "RUNNER/pyproject.toml -o requirements.lock (see docs/your-application.md)."
)
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
OTHER_FORMS = {".toml": "a TOML file", ".json": "a JSON file", ".yml": "a YAML file", ".yaml": "a YAML file"}
OTHER_NAMES = {
    "uv.lock": "uv's own format",
    "poetry.lock": "Poetry's own format",
    "pdm.lock": "PDM's own format",
    "Pipfile.lock": "Pipenv's own format",
}


@dataclass(frozen=True)
class Pin:
    """A requirement of a lock file."""

    requirement: Requirement
    hashes: tuple[str, ...]
    place: str  # file:line

    @property
    def name(self) -> str:
        return canonicalize_name(self.requirement.name)

    @property
    def version(self) -> str:
        return next(part.version for part in self.requirement.specifier)

    @property
    def statement(self) -> str:
        """All that it says, in one form."""
        return " ".join([str(self.requirement), *(f"--hash={value}" for value in sorted(self.hashes))])

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

    def names(self) -> set[str]:
        return {pin.name for pin in self.pins}


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


def read_lock(variable: str, path: Path) -> Lock:
    """What a lock file says. Raises Refusal for what is no lock file, or locks nothing."""
    form = OTHER_NAMES.get(path.name) or OTHER_FORMS.get(path.suffix)
    if form:
        raise Refusal(f"{variable}: got '{path}', which is {form}; expected a requirements file with hashes. {AGAIN}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (UnicodeDecodeError, OSError) as error:
        what = "not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise Refusal(f"{variable}: got '{path}', which is {what}; expected a requirements file with hashes.") from None
    pins, index = [], []
    for number, line in logical_lines(text):
        place = f"{path}:{number}"
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
            "built from tornado_app_source, so leave it out; anything else in a directory has to be a wheel of an index."
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
        raise Refusal(
            f"{variable}: got '{shown}' ({place}), {kind}; expected name==version with its hashes. Put its wheel on an "
            "index of yours, or make it a part of the application."
        )
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
        if marker is not None and not marker.evaluate(environment):
            continue
        if one.name in found and found[one.name].statement != one.statement:
            other = found[one.name]
            raise Refusal(
                f"{variable}: got both '{other.requirement}' ({other.place}) and '{one.requirement}' ({one.place}) for "
                f"Python {target['python_full']}; expected one of them."
            )
        found[one.name] = one
    return found
