"""The wheels of the application and of the runner: built from a source, kept between runs, and checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.plugin_utils.builder import (
    Builder,
    Wheel,
    digest_of,
    fits,
    keep,
    with_fields,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.bundle import BUNDLE_FORM, digest
from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import ACCOUNT, Refusal, interpreter, scratch
from ansible_collections.eyewall.tornado.plugins.plugin_utils.git import (
    Exported,
    History,
    check_complete,
    check_filled,
    top_of,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.inputs import check_python, is_wheel, of_source
from ansible_collections.eyewall.tornado.plugins.plugin_utils.lockfile import Lock, Pin, for_target, read_lock
from ansible_collections.eyewall.tornado.plugins.plugin_utils.source import (
    Source,
    read_file,
    read_project,
    required_names,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.target import target_name


def builder_of(params: dict[str, Any], source: Exported, lock: Lock, python: tuple[str, str]) -> Builder:
    """What builds, with what is pinned for it: by the user, of what the build names by the lock file, and by us."""
    target = {"python": python[0], "python_full": f"{python[0]}.0", "machine": os.uname().machine}
    variable, given = "tornado_app_build_requirements", params["build_requirements"]
    own, index = dict[str, Pin](), list(lock.index)
    if given:
        path = of_source(source, given)
        if not path.is_file():
            raise Refusal(f"{variable}: got '{path}'; expected a file with what the build needs.")
        theirs = read_lock(variable, path)
        own, index = for_target(variable, theirs.pins, target), [*index, *theirs.index]
    named = set() if is_wheel(source.place) else required_names(read_project(source.place))
    locked = for_target("tornado_app_requirements", [pin for pin in lock.pins if pin.name in named], target)
    ours = for_target("backends", read_lock("backends", Path(params["backends"])).pins, target)
    return Builder(Path(params["build"]).resolve(), python, [own, locked, ours], index)


def python_for_builds(targets: list[dict[str, str]]) -> tuple[str, str]:
    """A Python to build with: one that hosts have, where the controller has it too."""
    current = f"{sys.version_info.major}.{sys.version_info.minor}"
    for version in dict.fromkeys([*(target["python"] for target in targets), current]):
        if found := interpreter(version):
            return version, found
    raise Refusal(
        f"Python on the controller: got none that the account '{ACCOUNT}' can start; expected "
        f"/usr/bin/python{current} (Debian: python3), or Ansible run as an account that is not root: builds never run as root."
    )


def built(builder: Builder, directory: Path, history: History | None, warn: Callable[[str], None]) -> tuple[Wheel, str]:
    """The wheel of a source directory, and the digest of what is in it; kept between runs by all that it was made of."""
    repository, fence = (history.repository, history.top) if history else (None, None)
    # a repository from elsewhere names nothing on the controller
    source = Source(directory, builder.build, fence)
    for warning in source.warnings:
        warn(warning)
    history = (history or History.of(directory)) if source.asks_git() else None

    def place_of(files: str) -> Path:
        key = digest(BUNDLE_FORM, files, builder.fingerprint, history.fingerprint() if history else "")
        return builder.build / "wheels" / key

    place = place_of(source.digest())
    if not place.exists():
        check_complete("tornado_app_source", directory)
        with scratch() as work:
            top = work.place / "source"
            place = place_of(source.copy(top))
            if history:
                history.lend(top)
            work.give(top)
            made = builder.wheel(work, top / source.prefix, str(directory))
            if (fields := with_fields(made)) and (origin := top_of(directory)):
                names = [file.name for file in source.files if read_file(file.path) in fields]
                check_filled("tornado_app_source", origin, repository, names)
            if not place.exists():
                keep(place, **{made.name: made.read_bytes(), "digest": digest_of(made).encode()})
    return Wheel(next(place.glob("*.whl"))), (place / "digest").read_text()


def check_application(application: Wheel, runner: Wheel, locked: list[Pin], targets: list[dict[str, str]]) -> None:
    """Refuse a wheel that hosts could not install beside the others, or that lacks what is in it by name only."""
    name = application.path.name
    check_python(application.about["Requires-Python"], name, targets)
    for target in targets:
        if not fits(name, target):
            raise Refusal(
                f"tornado_app_source: got {name}, which {target_name(target)} cannot install; expected a wheel for it, or a "
                "pure Python one (py3-none-any)."
            )
    if placeholder := application.placeholder():
        raise Refusal(f"tornado_app_source: got '{placeholder[0]}' in {name}, which is {placeholder[1]}")
    if application.name in {runner.name, *(pin.name for pin in locked)}:
        where = next((pin.place for pin in locked if pin.name == application.name), "the runner's name")
        raise Refusal(
            f"tornado_app_source: got an application named '{application.name}' ({where}); expected another name."
        )
    if shared := sorted(set(application.files()) & set(runner.files())):
        raise Refusal(
            f"tornado_app_source: got the file '{shared[0]}' in {name}, which the runner has too; expected other names."
        )
