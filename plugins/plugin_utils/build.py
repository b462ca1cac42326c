"""Build the bundle of a release: once, for every kind of host."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.module_utils.text import with_place
from ansible_collections.eyewall.tornado.plugins.plugin_utils.application import (
    builder_of,
    built,
    check_application,
    python_for_builds,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.builder import Wheel, digest_of
from ansible_collections.eyewall.tornado.plugins.plugin_utils.bundle import (
    BUNDLE_FORM,
    Release,
    digest,
    write_tar,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import Refusal, interpreter
from ansible_collections.eyewall.tornado.plugins.plugin_utils.git import RELEASE_NAME, Exported
from ansible_collections.eyewall.tornado.plugins.plugin_utils.import_check import check_import
from ansible_collections.eyewall.tornado.plugins.plugin_utils.inputs import (
    check_inputs,
    check_python,
    delivered,
    is_wheel,
    lock_of,
    name_of,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.lockfile import read_lock
from ansible_collections.eyewall.tornado.plugins.plugin_utils.requirements import check_needs, needs_of, union
from ansible_collections.eyewall.tornado.plugins.plugin_utils.source import read_project, value_of
from ansible_collections.eyewall.tornado.plugins.plugin_utils.target import target_name
from ansible_collections.eyewall.tornado.plugins.plugin_utils.wheelhouse import wheelhouse

# What the action takes (DOCUMENTATION of modules/build.py).
OPTIONS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "source": {"type": "path", "required": True},
    "lock": {"type": "path", "default": ""},
    "backends": {"type": "path", "required": True},
    "build_requirements": {"type": "path", "default": ""},
    "runner": {"type": "path", "required": True},
    "runner_lock": {"type": "path", "required": True},
    "extras": {"type": "list", "elements": "str", "default": []},
    "entry": {"type": "str", "required": True},
    "static": {"type": "str", "default": ""},
    "version": {"type": "str", "default": ""},
    "targets": {"type": "list", "elements": "dict", "required": True},
    "build": {"type": "path", "required": True},
    "declared_in": {"type": "str", "default": ""},
}


@contextmanager
def alone(build: Path) -> Iterator[None]:
    """Be the only run that builds here, in a directory that is closed to others: it has source code and mirrors of git."""
    build.mkdir(mode=0o700, parents=True, exist_ok=True)
    build.chmod(0o700)
    with (build / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for left in build.glob("*/tmp????????"):  # by a run that was killed
            shutil.rmtree(left)
        yield


def bundle(params: dict[str, Any], warn: Callable[[str], None]) -> dict[str, Any]:
    """Build what is missing; the release's name, and what each target's hosts get."""
    build = Path(params["build"]).resolve()
    with alone(build), delivered(params["source"], params["version"], build) as source:
        for warning in source.warnings:
            warn(warning)
        return deliver(params, source, build, warn)


def deliver(params: dict[str, Any], given: Exported, build: Path, warn: Callable[[str], None]) -> dict[str, Any]:
    """The same for a source that is a directory or a wheel; without a name, the release is named by its content."""
    source, entry, static, targets = given.place, params["entry"], params["static"], params["targets"]
    runner = Path(params["runner"]).resolve()
    check_inputs(params["source"], source, entry)
    if not is_wheel(source):
        check_python(value_of(read_project(source), "project", "requires-python", ""), "pyproject.toml", targets)
    lock = read_lock("tornado_app_requirements", lock_of(given, params["lock"]), name_of(source))
    runner_lock = read_lock("runner_lock", Path(params["runner_lock"]))
    pins, pinned = union(lock, runner_lock, needs_of(runner, params["extras"]), targets)

    builder = builder_of(params, given, lock, python_for_builds(targets))
    if is_wheel(source):
        application, code = Wheel(source), digest_of(source)
    else:
        application, code = built(builder, source, given.history, warn)
    of_runner, own = built(builder, runner, None, warn)
    check_application(application, of_runner, pins, targets)
    # of locks what they say, not their comments
    total = digest(BUNDLE_FORM, code, own, *(pin.statement for pin in pins), entry, static)
    name = release_name(given.name, application, total)

    release = Release(params["name"], total, entry, static, application, of_runner)
    changed, made = False, {}
    for target, locked in zip(targets, pinned, strict=True):
        house = wheelhouse(builder, locked, target)
        made[target_name(target)], fresh = of_target(release, house, target, build)
        changed |= fresh
    return {"changed": changed, "release": name, "digest": total, "targets": made}


def of_target(release: Release, house: Path, target: dict[str, str], build: Path) -> tuple[dict[str, str], bool]:
    """What the hosts of a target get, and whether it was made now."""
    wanted = digest(BUNDLE_FORM, (house / "requirements.txt").read_text(encoding="utf-8"))
    environment = f"{target_name(target)}-{wanted[:16]}"
    tar = build / "bundles" / release.digest / f"{target_name(target)}.tar"
    sent = build / "wheelhouses" / f"{environment}.tar"
    fresh = not (tar.exists() and sent.exists())
    if fresh:
        pack(release, house, target, tar, sent)
    return {"bundle": str(tar), "environment": environment, "wheelhouse": str(sent)}, fresh


def release_name(given: str, application: Wheel, total: str) -> str:
    """The name that was given, else one of version and content."""
    # A local version label (PEP 440) for the content: a changed source is another release, without a new number
    name = given or f"{application.path.name.split('-')[1]}+{total[:8]}"
    if not RELEASE_NAME.fullmatch(name):
        raise Refusal(
            f"tornado_app_source: got version '{application.version}'; expected up to 50 letters, digits, dots and pluses."
        )
    return name


def pack(release: Release, house: Path, target: dict[str, str], tar: Path, sent: Path) -> None:
    """Check what the hosts of a target get, and write it: the bundle, and the wheelhouse if it is not there."""
    wheels, own = sorted((house / "wheels").iterdir()), [release.application, release.runner]
    check_needs([*(Wheel(wheel) for wheel in wheels), *own], target)
    with ThreadPoolExecutor() as beside:
        # an import and a compression take a CPU each
        of_host = interpreter(target["python"]) if target["machine"] == os.uname().machine else None
        checked = beside.submit(check_import, own, house, release.entry, of_host) if of_host else None
        held = release.files()
    if checked:
        checked.result()
    if not sent.exists():
        dependencies = {f"wheels/{file.name}": file.read_bytes() for file in wheels}
        write_tar(sent, {"requirements.txt": (house / "requirements.txt").read_bytes()} | dependencies)
    write_tar(tar, held)


def result_of(params: dict[str, Any]) -> dict[str, Any]:
    """The result of the action: as `bundle` says, or the sentence with which it failed, and the warnings of both."""
    warnings: list[str] = []
    try:
        result = bundle(params, warnings.append)
    except Refusal as refusal:
        result = {"failed": True, "msg": with_place(str(refusal), params["declared_in"])}
    except OSError as error:
        where = f"in {params['build']} (tornado_app_build)"
        result = {"failed": True, "msg": f"Building on the controller, {where}, failed: {error}."}
    return {**result, "warnings": warnings} if warnings else result
