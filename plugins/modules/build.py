"""Ansible module, for the controller: build the bundle of a release."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.application import (
    builder_of,
    built,
    check_application,
    python_for_builds,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.builder import Wheel, digest_of, target_name
from ansible_collections.eyewall.tornado.plugins.module_utils.bundle import (
    BUNDLE_FORM,
    Release,
    digest,
    write_tar,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.child import Refusal, interpreter, without_credentials
from ansible_collections.eyewall.tornado.plugins.module_utils.git import RELEASE_NAME, Exported
from ansible_collections.eyewall.tornado.plugins.module_utils.import_check import check_import
from ansible_collections.eyewall.tornado.plugins.module_utils.inputs import (
    check_inputs,
    check_python,
    delivered,
    is_wheel,
    lock_of,
    name_of,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.lockfile import read_lock
from ansible_collections.eyewall.tornado.plugins.module_utils.requirements import check_needs, needs_of, union
from ansible_collections.eyewall.tornado.plugins.module_utils.source import read_project, value_of
from ansible_collections.eyewall.tornado.plugins.module_utils.text import with_place
from ansible_collections.eyewall.tornado.plugins.module_utils.wheelhouse import wheelhouse

DOCUMENTATION = r"""
module: build
short_description: Build what hosts install of a release, once, on the controller
description:
  - A bundle is a tar file with the application's and the runner's wheels and the static files, compressed beforehand. A
    wheelhouse is a tar file with every locked requirement for one Python version, architecture and C library, which together are
    an environment. A host that has the environment needs the bundle alone, and no host needs a package index.
  - They are made again only when the source, the lock file or the runner changed. A release is named by what its wheels have,
    so that the same source is the same release on every controller.
  - The application is imported on the controller, where an interpreter of a host's version is there, so that one that
    cannot be imported stops before any host is touched.
  - Build backends and the application are run with an environment of their own, and as C(nobody) where the operator is root.
options:
  name: {type: str, required: true, description: Name of the application.}
  source:
    description:
      - A directory with the application's C(pyproject.toml); or its wheel; or a git repository as pip names one,
        C(git+https://host/repository.git@reference#subdirectory=path), with C(https), C(ssh) or C(file).
      - Without C(@reference), the reference is O(version), else the repository's default branch.
    type: path
    required: true
  lock:
    description:
      - The application's lock, with every requirement pinned and with hashes - a C(uv.lock), a C(pylock.toml), or a requirements
        file. A relative path is looked for in the source directory, the repository's subdirectory, or the directory of the wheel.
      - Empty for the one that is there of C(pylock.toml), C(uv.lock), C(requirements.lock) and C(requirements.txt).
    type: path
    default: ""
  backends: {type: path, required: true, description: "Build backends, pinned and with hashes, for whoever pins none."}
  build_requirements:
    description: What the build needs, pinned and with hashes like O(lock), where the application pins it itself; or empty.
    type: path
    default: ""
  runner: {type: path, required: true, description: Directory with the runner's C(pyproject.toml).}
  runner_lock:
    description: What the runner needs, pinned and with hashes. Of it comes what O(lock) does not have.
    type: path
    required: true
  extras: {type: list, elements: str, default: [], description: "Extras of the runner that are needed, as in C(gunicorn)."}
  entry:
    description: What is run, C(package.module:factory), C(-m module), C({site}/file) for a file of the application, or a
      console script's name.
    type: str
    required: true
  static: {type: str, default: "", description: "Directory of static files inside the application's wheel."}
  version:
    description: Name of the release, by default made of version and content. For a git repository it is the reference, whose
      name the release has when it is a tag. For a wheel it is the wheel's own version or empty.
    type: str
    default: ""
  targets:
    description: C(python) as in C(3.11), C(python_full) as in C(3.11.2), C(machine), C(glibc) as in C(2.36).
    type: list
    elements: dict
    required: true
  build: {type: path, required: true, description: "Directory for what is built, kept between runs."}
  declared_in: {type: str, default: "", description: "Where the inputs are written, as in C(site_apps.board), for messages."}
"""


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


def main() -> None:
    module = AnsibleModule(
        argument_spec={
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
        },
        # It changes nothing but its own cache, and a check needs its result.
        supports_check_mode=True,
    )
    params = module.params.copy()
    module.params["source"] = without_credentials(params["source"])  # what Ansible shows of the invocation
    try:
        module.exit_json(**bundle(params, module.warn))
    except Refusal as refusal:
        module.fail_json(msg=with_place(str(refusal), params["declared_in"]))
    except OSError as error:
        module.fail_json(msg=f"Building on the controller, in {params['build']} (tornado_app_build), failed: {error}.")


if __name__ == "__main__":
    main()
