"""Ansible module, for the controller: build the bundle of a release."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import brotli
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.builder import (
    Builder,
    Wheel,
    digest_of,
    download,
    fits,
    keep,
    target_name,
    with_fields,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.child import (
    ACCOUNT,
    IMPORT_SECONDS,
    Refusal,
    interpreter,
    make_venv,
    scratch,
    without_credentials,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.entry import importing, mistake
from ansible_collections.eyewall.tornado.plugins.module_utils.git import (
    RELEASE_NAME,
    Exported,
    History,
    Repository,
    check_complete,
    check_filled,
    top_of,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.lockfile import (
    Lock,
    Pin,
    environment_of,
    for_target,
    read_lock,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.source import (
    Source,
    read_file,
    read_project,
    required_names,
    value_of,
)
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

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
    description: The requirements of the application and of the runner, every one pinned and with hashes. A relative path is
      looked for in the source directory, the repository's subdirectory, or the directory of the wheel.
    type: path
    required: true
  backends: {type: path, required: true, description: "Build backends, pinned and with hashes, for whoever pins none."}
  build_requirements:
    description: What the build needs, pinned and with hashes like O(lock), where the application pins it itself; or empty.
    type: path
    default: ""
  runner: {type: path, required: true, description: Directory with the runner's C(pyproject.toml).}
  entry:
    description: What is run, C(package.module:factory), C(-m module), C({site}/file) for a file of the application, or a
      console script's name.
    type: str
    required: true
  needs: {type: list, elements: str, default: [], description: "Packages that the lock file has to have."}
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
  build: {type: path, required: true, description: Directory for what is built, kept between runs.}
"""

# Part of every digest: raise it when the form of a bundle changes.
BUNDLE_FORM = "4"
# Compressed beforehand: what nginx's gzip_types lists as text, by ending.
COMPRESSIBLE = {
    ".css",
    ".html",
    ".js",
    ".json",
    ".map",
    ".mjs",
    ".svg",
    ".txt",
    ".wasm",
    ".webmanifest",
    ".xml",
}
# Files by whose name nginx takes them for the compressed form of another one (gzip_static, brotli_static).
ARCHIVES = (".gz", ".br")


def digest(*texts: str) -> str:
    """SHA-256 over texts."""
    return hashlib.sha256("".join(f"{text}\0" for text in texts).encode()).hexdigest()


def is_wheel(path: Path) -> bool:
    return path.suffix == ".whl" and path.is_file()


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


@contextmanager
def delivered(source: str, version: str, build: Path) -> Iterator[Exported]:
    """A directory or a wheel, wherever it comes from, with the name of the release, "" for one made of its content."""
    if source.startswith("git+"):
        with Repository(source, build).exported(version) as found:
            yield found
        return
    if version and not RELEASE_NAME.fullmatch(version):
        raise Refusal(
            f"tornado_app_version is '{version}'; allowed are up to 64 letters, digits, dots, underscores and pluses."
        )
    path = Path(source).resolve()
    if is_wheel(path):
        try:
            own = str(parse_wheel_filename(path.name)[1])
        except InvalidWheelFilename:
            raise Refusal(
                f"tornado_app_source is '{source}'; allowed is a wheel's own name, as in name-1.4.2-py3-none-any.whl."
            ) from None
        if version not in ("", own):
            raise Refusal(
                f"tornado_app_version is '{version}', and tornado_app_source is '{source}', which is version {own}; "
                "allowed is the wheel's own version, or none."
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


# ---- What is refused by looking ----


def check_inputs(source: str, place: Path, lock: Path, entry: str) -> None:
    """Refuse what can be refused by looking."""
    if not (is_wheel(place) or (place / "pyproject.toml").is_file()):
        raise Refusal(
            f"tornado_app_source is '{without_credentials(source)}'; allowed is a directory with a pyproject.toml, a wheel, "
            "or git+https:// and a repository with a pyproject.toml (see docs/your-application.md)."
        )
    if not lock.is_file():
        raise Refusal(
            f"tornado_app_requirements is '{lock}', and no such file is there (see docs/your-application.md)."
        )
    if wrong := mistake(entry):
        raise Refusal(wrong)


def runner_is_locked(runner: Path, lock: Lock, needs: list[str]) -> None:
    """Refuse a lock file without the runner's own requirements, or without what else `needs` names."""
    dependencies = read_project(runner)["project"]["dependencies"]
    needed: set[str] = {canonicalize_name(Requirement(need).name) for need in dependencies}
    lacking = sorted(needed - lock.names())
    if lacking:
        raise Refusal(
            f"tornado_app_requirements: {lock.path} lacks {', '.join(lacking)}, which the runner needs. Name "
            f"{runner}/pyproject.toml among the inputs of uv pip compile (see docs/your-application.md)."
        )
    if lacking := sorted(set(needs) - lock.names()):
        raise Refusal(
            f"tornado_app_requirements: {lock.path} lacks {', '.join(lacking)}, which tornado_app_server: gunicorn needs. Name "
            "it among the application's dependencies, and make the file anew (see docs/your-application.md)."
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


def check_application(application: Wheel, runner: Wheel, lock: Lock, targets: list[dict[str, str]]) -> None:
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
    if application.name in {runner.name, *lock.names()}:
        where = next((pin.place for pin in lock.pins if pin.name == application.name), "the runner's name")
        raise Refusal(
            f"tornado_app_source: got an application named '{application.name}' ({where}); expected another name."
        )
    if shared := sorted(set(application.files()) & set(runner.files())):
        raise Refusal(
            f"tornado_app_source: got the file '{shared[0]}' in {name}, which the runner has too; expected other names."
        )


# ---- Building ----


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
        f"The controller has no Python that the account '{ACCOUNT}' can start, and builds are never run as root; expected "
        f"/usr/bin/python{current} (Debian: python3), or run Ansible as an account that is not root."
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


def wheelhouse(builder: Builder, pins: list[Pin], target: dict[str, str]) -> Path:
    """A directory with a wheel of each requirement for a target and their hashes, checked; kept between runs."""
    key = digest(BUNDLE_FORM, *(pin.statement for pin in pins), builder.fingerprint)
    house = builder.build / "wheelhouses" / f"{target_name(target)}-{key[:16]}"
    if house.exists():
        return house
    house.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=house.parent) as unfinished:
        wheels = Path(unfinished, "house", "wheels")
        wheels.mkdir(parents=True)
        lines = {pin.name: pin.line() for pin in pins}
        made = [Wheel(path) for path in fetched(builder, {pin.name: pin for pin in pins}, target, wheels)]
        # hosts compare SHA-256, which a lock file need not have
        other = {pin.name for pin in pins if not any(one.startswith("sha256:") for one in pin.hashes)}
        made += [wheel for path in wheels.iterdir() if other and (wheel := Wheel(path)).name in other]
        for wheel in made:
            lines[wheel.name] = f"{wheel.name}=={wheel.version} --hash=sha256:{hashed(wheel.path)}"
        (wheels.parent / "requirements.txt").write_text(
            "".join(f"{line}\n" for line in lines.values()), encoding="utf-8"
        )
        wheels.parent.rename(house)
    return house


def hashed(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fetched(builder: Builder, pins: dict[str, Pin], target: dict[str, str], wheels: Path) -> list[Path]:
    """Fetch wheels, and build those that no index has; the ones that were built."""
    made: list[Path] = []
    doing = f"Getting the wheels of tornado_app_requirements for {target_name(target)}"
    while pins:
        try:
            lines = [*builder.index, *(pin.line() for pin in pins.values())]
            download(lines, wheels, doing, target["python_full"], target)
            break
        except Refusal as refusal:
            said = str(refusal)
            lacking = re.search(r"(?:No matching distribution found for |Package ')([\w.-]+)", said)
            if not lacking or canonicalize_name(lacking[1]) not in pins:
                raise
            pin = pins.pop(canonicalize_name(lacking[1]))
            wanted = re.search(rf"(?<![\w.]){re.escape(pin.version)} Requires-Python ([^;\n]+)", said)
            if wanted := wanted or re.search(r"requires a different Python: \S+ not in '([^']+)'", said):
                raise Refusal(
                    f"tornado_app_requirements: got '{pin.requirement}' ({pin.place}), which needs Python {wanted[1]}; expected "
                    f"a version for Python {target['python_full']}, which hosts have."
                ) from None
            try:
                made.append(builder.of_source(pin))
            except Refusal as other:
                raise Refusal(
                    f"tornado_app_requirements: got '{pin.requirement}' ({pin.place}), which has no wheel for "
                    f"{target_name(target)}; expected one, or a source distribution in pure Python. {other}\n{refusal}"
                ) from None
    for wheel in made:
        shutil.copyfile(wheel, wheels / wheel.name)
    return made


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
                has = f"has {other.name}=={other.version}" if other else "lacks it"
                raise Refusal(
                    f"tornado_app_requirements: '{wheel.name}' needs '{need}', and the file {has}; expected what fits. Make it "
                    "again (see docs/your-application.md)."
                )


def check_import(wheels: list[Wheel], house: Path, entry: str, python: str) -> None:
    """Look for what is to be run in a virtualenv of its own. Raises Refusal with the traceback's end."""
    with scratch() as place:
        lines = (house / "requirements.txt").read_text(encoding="utf-8").splitlines()
        lines += [f"{wheel.name}=={wheel.version} --hash=sha256:{hashed(wheel.path)}" for wheel in wheels]
        where = [house / "wheels", *(wheel.path.parent for wheel in wheels)]
        interpreter = make_venv(place, python, lines, where, "Installing the application on the controller")
        doing, code = importing(entry)
        place.run([interpreter, "-c", code], f"{doing} on the controller", IMPORT_SECONDS)


# ---- Static files ----


def static_files(application: Path, static: str) -> dict[str, bytes]:
    """The static files of the application's wheel, by their path below the static directory."""
    root = static.strip("/") + "/"
    with zipfile.ZipFile(application) as archive:
        found = {
            name[len(root) :]: archive.read(name)
            for name in archive.namelist()
            if name.startswith(root) and not name.endswith("/")
        }
    if not found:
        raise Refusal(
            f"tornado_app_static is '{static}', and {application.name} has no file below it; allowed is a directory inside "
            "the built wheel, as in package/static, or '' for an application without static files."
        )
    return found


def compressed(path: str, data: bytes) -> dict[str, bytes]:
    """What to serve beside a file: `.gz` and `.br`, where they save at least a tenth (nginx gzip_static)."""
    if PurePosixPath(path).suffix not in COMPRESSIBLE:
        return {}
    variants = {".gz": gzip.compress(data, 9, mtime=0), ".br": brotli.compress(data, quality=11)}
    return {ending: small for ending, small in variants.items() if len(small) < len(data) * 0.9}


def published(files: dict[str, bytes]) -> dict[str, bytes]:
    """Static files as a host serves them, with what is made beside them.

    In `static`, a file with an ARCHIVES ending was made here of the one without: nginx takes it for that by its name alone. So
    the application's own file of such a name is in `archives`, and never served in the place of another one.
    """
    found: dict[str, bytes] = {}
    folders = {str(parent) for path in files for parent in PurePosixPath(path).parents}
    for path, data in sorted(files.items()):
        if path.endswith(ARCHIVES):
            found[f"archives/{path}"] = data
            continue
        found[f"static/{path}"] = data
        variants = {f"{path}{ending}": small for ending, small in compressed(path, data).items()}
        found |= {f"static/{name}": small for name, small in variants.items() if name not in folders}
    return found


# ---- All of it ----


def write_tar(path: Path, files: dict[str, bytes]) -> None:
    """Write a tar file with nothing in it that depends on the machine or the hour; it is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".part")
    with tarfile.open(unfinished, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(data), 0o644
            tar.addfile(info, io.BytesIO(data))
    unfinished.rename(path)


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
    path = of_source(given, params["lock"])
    check_inputs(params["source"], source, path, entry)
    lock = read_lock("tornado_app_requirements", path)
    runner_is_locked(runner, lock, params["needs"])
    if not is_wheel(source):
        check_python(value_of(read_project(source), "project", "requires-python", ""), "pyproject.toml", targets)
    pinned = [list(for_target("tornado_app_requirements", lock.pins, target).values()) for target in targets]

    builder = builder_of(params, given, lock, python_for_builds(targets))
    if is_wheel(source):
        application, code = Wheel(source), digest_of(source)
    else:
        application, code = built(builder, source, given.history, warn)
    of_runner, own = built(builder, runner, None, warn)
    check_application(application, of_runner, lock, targets)
    # of the lock file what it says, not its comments
    total = digest(BUNDLE_FORM, code, own, *(pin.statement for pin in lock.pins), entry, static)
    # A local version label (PEP 440) for the content: a changed source is another release, without a new number
    release = given.name or f"{application.path.name.split('-')[1]}+{total[:8]}"
    if not RELEASE_NAME.fullmatch(release):
        raise Refusal(
            f"tornado_app_source: got version '{application.version}'; expected up to 50 letters, digits, dots and pluses."
        )

    made, changed = {}, False
    for target, pins in zip(targets, pinned, strict=True):
        house = wheelhouse(builder, pins, target)
        wanted = (house / "requirements.txt").read_text(encoding="utf-8")
        environment = f"{target_name(target)}-{digest(BUNDLE_FORM, wanted)[:16]}"
        tar = build / "bundles" / total / f"{target_name(target)}.tar"
        sent = build / "wheelhouses" / f"{environment}.tar"
        made[target_name(target)] = {"bundle": str(tar), "environment": environment, "wheelhouse": str(sent)}
        if tar.exists() and sent.exists():
            continue
        changed = True
        wheels = sorted((house / "wheels").iterdir())
        check_needs([*(Wheel(wheel) for wheel in wheels), application, of_runner], target)
        with ThreadPoolExecutor() as beside:
            # an import and a compression take a CPU each
            of_host = interpreter(target["python"]) if target["machine"] == os.uname().machine else None
            checked = beside.submit(check_import, [application, of_runner], house, entry, of_host) if of_host else None
            held = {"manifest.json": json.dumps({"name": params["name"], "digest": total, "entry": entry}).encode()}
            held |= {f"wheels/{wheel.path.name}": wheel.path.read_bytes() for wheel in (application, of_runner)}
            held |= published(static_files(application.path, static)) if static else {}
        if checked:
            checked.result()
        if not sent.exists():
            dependencies = {f"wheels/{file.name}": file.read_bytes() for file in wheels}
            write_tar(sent, {"requirements.txt": wanted.encode()} | dependencies)
        write_tar(tar, held)
    return {"changed": changed, "release": release, "digest": total, "targets": made}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": {"type": "path", "required": True},
            "lock": {"type": "path", "required": True},
            "backends": {"type": "path", "required": True},
            "build_requirements": {"type": "path", "default": ""},
            "runner": {"type": "path", "required": True},
            "entry": {"type": "str", "required": True},
            "needs": {"type": "list", "elements": "str", "default": []},
            "static": {"type": "str", "default": ""},
            "version": {"type": "str", "default": ""},
            "targets": {"type": "list", "elements": "dict", "required": True},
            "build": {"type": "path", "required": True},
        },
        # It changes nothing but its own cache, and a check needs its result.
        supports_check_mode=True,
    )
    params = module.params.copy()
    module.params["source"] = without_credentials(params["source"])  # what Ansible shows of the invocation
    try:
        module.exit_json(**bundle(params, module.warn))
    except Refusal as refusal:
        module.fail_json(msg=str(refusal))
    except OSError as error:
        module.fail_json(msg=f"Building on the controller, in {params['build']} (tornado_app_build), failed: {error}.")


if __name__ == "__main__":
    main()
