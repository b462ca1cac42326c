"""What a host gets beside the application and the runner: what the application's lock says, and the runner's of the rest."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.eyewall.tornado.plugins.plugin_utils.builder import Wheel
from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import Refusal
from ansible_collections.eyewall.tornado.plugins.plugin_utils.lockfile import (
    AGAIN,
    Lock,
    Pin,
    check_target,
    environment_of,
    for_target,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.source import read_project
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name


def needs_of(runner: Path, extras: list[str]) -> list[str]:
    """What the runner needs, in the words of its project."""
    project = read_project(runner)["project"]
    optional = project.get("optional-dependencies", {})
    return [*project["dependencies"], *(need for extra in extras for need in optional.get(extra, []))]


def check_admitted(needs: list[str], locked: dict[str, Pin], target: dict[str, str]) -> None:
    """Refuse a version of the application's lock that the runner cannot run with."""
    environment = environment_of(target)
    for text in needs:
        need = Requirement(text)
        pin = locked.get(canonicalize_name(need.name))
        if pin is None or need.specifier.contains(pin.version, prereleases=True):
            continue
        if need.marker is None or need.marker.evaluate(environment):
            raise Refusal(
                f"tornado_app_requirements: got '{pin.requirement}' ({pin.place}); expected {text.partition(';')[0].strip()}, "
                "which the runner needs."
            )


def union(
    lock: Lock, runner_lock: Lock, needs: list[str], targets: list[dict[str, str]]
) -> tuple[list[Pin], list[list[Pin]]]:
    """What the application's lock says, and the runner's of what that lacks: altogether, and for each target."""
    lacking, pinned = set[str](), list[list[Pin]]()
    for target in targets:
        check_target("tornado_app_requirements", lock, target)
        locked = for_target("tornado_app_requirements", lock.pins, target)
        check_admitted(needs, locked, target)
        more = for_target("runner_lock", runner_lock.pins, target)
        lacking |= more.keys() - locked.keys()
        pinned.append(list((more | locked).values()))
    # A release is named by them: a newer version in the runner's lock is none of a release whose own lock has the package.
    return [*lock.pins, *(pin for pin in runner_lock.pins if pin.name in lacking)], pinned


def check_needs(wheels: list[Wheel], target: dict[str, str]) -> None:
    """Refuse what is needed and not locked: it may be imported at the first request only."""
    environment = environment_of(target)
    there = {wheel.name: wheel for wheel in wheels}
    for wheel in wheels:
        for text in wheel.needs:
            try:
                need = Requirement(text)
            except InvalidRequirement:  # of an old wheel, which installs all the same
                continue
            if need.marker is not None and not need.marker.evaluate(environment):
                continue
            other = there.get(canonicalize_name(need.name))
            if other is None or not need.specifier.contains(other.version, prereleases=True):
                has = f"{other.name}=={other.version}" if other else f"no {need.name}"
                raise Refusal(
                    f"tornado_app_requirements: got {has}; expected '{need}', which '{wheel.name}' needs. {AGAIN}"
                )
