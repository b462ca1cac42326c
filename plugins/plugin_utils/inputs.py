"""What a release is made of, as the user names it: found, and refused where looking is enough."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.eyewall.tornado.plugins.module_utils.entry import mistake
from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import Refusal, without_credentials
from ansible_collections.eyewall.tornado.plugins.plugin_utils.git import RELEASE_NAME, Exported, Repository
from ansible_collections.eyewall.tornado.plugins.plugin_utils.lockfile import AGAIN, EXPORTS, NAMES
from ansible_collections.eyewall.tornado.plugins.plugin_utils.source import read_project, value_of
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, parse_wheel_filename


def is_wheel(path: Path) -> bool:
    return path.suffix == ".whl" and path.is_file()


def name_of(source: Path) -> str:
    """The name of an application, before it is built."""
    if is_wheel(source):
        return str(parse_wheel_filename(source.name)[0])
    return str(value_of(read_project(source), "project", "name", ""))


@contextmanager
def delivered(source: str, version: str, build: Path) -> Iterator[Exported]:
    """A directory or a wheel, wherever it comes from, with the name of the release, "" for one made of its content."""
    if source.startswith("git+"):
        with Repository(source, build).exported(version) as found:
            yield found
        return
    if version and not RELEASE_NAME.fullmatch(version):
        raise Refusal(
            f"tornado_app_version: got '{version}'; expected up to 64 letters, digits, dots, underscores and pluses, "
            "starting with a letter or digit."
        )
    path = Path(source).resolve()
    if is_wheel(path):
        try:
            own = str(parse_wheel_filename(path.name)[1])
        except InvalidWheelFilename:
            raise Refusal(
                f"tornado_app_source: got '{source}'; expected a wheel's own name, as in name-1.4.2-py3-none-any.whl."
            ) from None
        if version not in ("", own):
            raise Refusal(
                f"tornado_app_version: got '{version}' for '{source}' (tornado_app_source), which is version {own}; "
                "expected the wheel's own version, or none."
            )
    yield Exported(path, version)


def of_source(given: Exported, name: str) -> Path:
    """A file that is named relative to a source. Raises Refusal where a repository from elsewhere has a link in its place."""
    path = Path(given.place.parent if is_wheel(given.place) else given.place, name).resolve()
    if given.history and not Path(name).is_absolute() and not path.is_relative_to(given.history.top):
        raise Refusal(
            f"tornado_app_source: got a link as '{name}' that leads out of the repository; expected a file in it."
        )
    return path


def check_inputs(source: str, place: Path, entry: str) -> None:
    """Refuse what can be refused by looking."""
    if not (is_wheel(place) or (place / "pyproject.toml").is_file()):
        raise Refusal(
            f"tornado_app_source: got '{without_credentials(source)}'; expected a directory with a pyproject.toml, a wheel, "
            "or git+https:// and a repository with a pyproject.toml (see docs/your-application.md)."
        )
    if wrong := mistake(entry):
        raise Refusal(wrong)


def lock_of(given: Exported, name: str) -> Path:
    """The application's lock: the file that is named, else the one that is there."""
    variable, names = "tornado_app_requirements", [name] if name else NAMES
    there = [path for path in (of_source(given, name) for name in names) if path.is_file()]
    if len(there) == 1:
        return there[0]
    directory = given.place.parent if is_wheel(given.place) else given.place
    if there:
        raise Refusal(
            f"{variable}: got {', '.join(path.name for path in there)} in '{directory}'; expected one lock. Set "
            f"{variable} to the one that hosts are to have."
        )
    if name:
        raise Refusal(f"{variable}: got '{of_source(given, name)}', where no file is; expected a lock. {AGAIN}")
    advice = next((f"Run: {EXPORTS[other]}" for other in EXPORTS if (directory / other).is_file()), AGAIN)
    raise Refusal(
        f"{variable}: got none of {', '.join(NAMES)} in '{directory}'; expected the application's lock. {advice}"
    )


def check_python(wanted: str | None, where: str, targets: list[dict[str, str]]) -> None:
    """Refuse an application that says itself that it does not run on a host's Python."""
    try:
        specifier = SpecifierSet(wanted or "")
    except InvalidSpecifier:
        raise Refusal(
            f"tornado_app_source: got requires-python '{wanted}' ({where}); expected as in '>=3.11'."
        ) from None
    for target in targets:
        if not specifier.contains(target["python_full"], prereleases=True):
            raise Refusal(
                f"tornado_app_source: got requires-python '{wanted}' ({where}), and hosts have Python "
                f"{target['python_full']} (tornado_app_python); expected a range with that version in it, or a newer Python "
                "on the hosts."
            )
