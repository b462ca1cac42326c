"""Ansible module, for the controller: build the bundle of a release."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import brotli
from ansible.module_utils.basic import AnsibleModule
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

DOCUMENTATION = r"""
module: tornado_app_build
short_description: Build what hosts install of a release, once, on the controller
description:
  - A bundle is a tar file for one Python version, architecture and C library, with the application's and the runner's wheels, a
    wheelhouse of every locked requirement, and the static files, compressed beforehand. Hosts need no package index.
  - It is made anew only when the source, the lock file or the runner changed.
  - The application is imported on the controller, where an interpreter of a host's version is there, so that one that
    cannot be imported stops before any host is touched.
options:
  name: {type: str, required: true, description: Name of the application.}
  source: {type: path, required: true, description: Directory with the application's C(pyproject.toml).}
  lock: {type: path, required: true, description: "Its requirements and the runner's, every one pinned and with hashes."}
  runner: {type: path, required: true, description: Directory with the runner's C(pyproject.toml).}
  factory: {type: str, required: true, description: "C(package.module:factory)."}
  static: {type: str, default: "", description: "Directory of static files inside the application's wheel."}
  version: {type: str, default: "", description: Name of the release; by default made of version and content.}
  targets:
    description: C(python) as in C(3.11), C(python_full) as in C(3.11.2), C(machine), C(glibc) as in C(2.36).
    type: list
    elements: dict
    required: true
  build: {type: path, required: true, description: Directory for what is built, kept between runs.}
"""

# Part of every digest: raise it when the form of a bundle changes.
BUNDLE_FORM = "1"
LEFT_OUT = {"__pycache__", ".git", ".venv", ".mypy_cache", ".pytest_cache", ".ruff_cache"}
LEFT_OUT_ON_TOP = {"build", "dist", "tests"}
# Compressed beforehand: what nginx' gzip_types lists as text, by ending.
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
RELEASE_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_]{0,63}")


class Refusal(Exception):  # noqa: N818 -- not an error of ours: what the user gave cannot work
    """One sentence for the user: what, where, which value, what is allowed."""


def run(command: list[str | Path], doing: str, **options: Any) -> str:
    """Run a command; its output, or a Refusal that says what it was doing and what it printed."""
    # Bytes that depend on the day are other bytes on the next: wheels are zip files with dates.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1577836800", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        **options,
    )
    if done.returncode:
        raise Refusal(f"{doing} failed:\n{(done.stdout + done.stderr).strip()}")
    return done.stdout


def tool(name: str) -> str:
    """A program that was installed beside this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise Refusal(f"{name} is not installed beside {sys.executable}: run make tools.")
    return found


def source_files(directory: Path) -> list[Path]:
    """What a source directory holds, without what tools leave in it, in a stable order."""
    found = []
    for folder, folders, files in os.walk(directory):
        left_out = LEFT_OUT | LEFT_OUT_ON_TOP if Path(folder) == directory else LEFT_OUT
        folders[:] = sorted(name for name in folders if name not in left_out and not name.endswith(".egg-info"))
        found += [Path(folder, name) for name in sorted(files) if not name.endswith(".pyc")]
    return found


def digest(*parts: str | Path, ignore: Path | None = None) -> str:
    """SHA-256 over texts and over directories' files with their names, but for the file `ignore`."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            total.update(part.encode() + b"\0")
            continue
        for path in source_files(part):
            if path != ignore:
                total.update(f"{path.relative_to(part)}\0{path.stat().st_size}\0".encode() + path.read_bytes())
    return total.hexdigest()


def locked(lock: Path) -> list[tuple[Requirement, str]]:
    """The requirements of a lock file, each with its whole text. Raises Refusal for one without pin or hash."""
    found = []
    text = re.sub(r"\\\n", " ", lock.read_text(encoding="utf-8"))
    for line in text.splitlines():
        statement = re.sub(r"(^|\s)#.*", "", line).strip()
        if not statement:
            continue
        spec = statement.split(" --hash", 1)[0].strip()
        try:
            requirement = Requirement(spec)
        except InvalidRequirement:
            raise Refusal(
                f"tornado_app_lock: {lock} has the line '{spec}'; allowed are lines 'name==version --hash=…'."
            ) from None
        pins = [part for part in requirement.specifier if part.operator in ("==", "===") and "*" not in part.version]
        if len(pins) != 1 or "--hash=sha256:" not in statement:
            lacks = "no --hash" if len(pins) == 1 else "no exact version (==)"
            raise Refusal(
                f"tornado_app_lock: {lock} has '{spec}' with {lacks}; every requirement needs an exact version and its hashes. "
                "Make the file anew with: uv pip compile --universal --generate-hashes --no-emit-index-url "
                "(see docs/your-application.md)."
            )
        found.append((requirement, re.sub(r"\s+", " ", statement)))
    return found


def runner_is_locked(runner: Path, requirements: list[tuple[Requirement, str]], lock: Path) -> None:
    """Refuse a lock file without the runner's own requirements."""
    project = tomllib.loads((runner / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    have = {canonicalize_name(requirement.name) for requirement, _ in requirements}
    lacking = sorted({canonicalize_name(Requirement(need).name) for need in project["dependencies"]} - have)
    if lacking:
        raise Refusal(
            f"tornado_app_lock: {lock} lacks {', '.join(lacking)}, which the runner needs. Name {runner}/pyproject.toml "
            "among the inputs of uv pip compile (see docs/your-application.md)."
        )


def for_target(requirements: list[tuple[Requirement, str]], target: dict[str, str]) -> str:
    """The requirements of one target, markers decided: pip decides them by the Python that it runs on."""
    python = target["python"]
    environment = {str(name): str(value) for name, value in default_environment().items()} | {
        "python_version": python,
        "python_full_version": target["python_full"],
        "implementation_version": target["python_full"],
        "platform_machine": target["machine"],
        "platform_system": "Linux",
        "sys_platform": "linux",
        "os_name": "posix",
        "extra": "",
    }
    lines = []
    for requirement, statement in requirements:
        if requirement.marker is None or requirement.marker.evaluate(environment):
            spec, hashes = statement.split(" --hash", 1)
            lines.append(f"{spec.split(';')[0].strip()} --hash{hashes}")
    return "\n".join(lines) + "\n"


def platforms(target: dict[str, str]) -> list[str]:
    """The wheel platforms that a host takes, newest C library first (PEP 600): pip takes only what is listed."""
    machine, minor = target["machine"], int(target["glibc"].split(".")[1])
    names = [f"manylinux_2_{number}_{machine}" for number in range(minor, 4, -1)]
    names += [f"{legacy}_{machine}" for legacy in ("manylinux2014", "manylinux2010", "manylinux1", "linux")]
    return names


def target_name(target: dict[str, str]) -> str:
    return f"py{target['python_full']}-{target['machine']}-glibc{target['glibc']}"


def wheelhouse(build: Path, requirements: str, target: dict[str, str]) -> Path:
    """A directory with a wheel of each requirement for the target, hashes checked; kept between runs."""
    house = build / "wheelhouses" / f"{target_name(target)}-{digest(requirements)[:16]}"
    if house.exists():
        return house
    house.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=house.parent) as scratch:
        wheels = Path(scratch, "wheels")
        wheels.mkdir()
        wanted = Path(scratch, "requirements.txt")
        wanted.write_text(requirements, encoding="utf-8")
        tags = [word for name in platforms(target) for word in ("--platform", name)]
        run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps",
             "--only-binary=:all:", "--require-hashes", "--python-version", target["python"], *tags,
             "--dest", wheels, "--requirement", wanted],
            f"Getting the wheels of tornado_app_lock for {target_name(target)}",
        )  # fmt: skip
        wheels.rename(house)
    return house


def wheel(build: Path, project: Path, key: str) -> Path:
    """The wheel of a source directory; kept between runs by the digest of its source."""
    place = build / "wheels" / key
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
            out = Path(scratch, "out")
            run([tool("uv"), "build", "--quiet", "--wheel", "--out-dir", out, project], f"Building {project}")
            (out / ".gitignore").unlink(missing_ok=True)
            out.rename(place)
    return next(place.glob("*.whl"))


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add a file with nothing in it that depends on the machine or the hour."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    tar.addfile(info, io.BytesIO(data))


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


def check_import(wheels: list[Path], house: Path, requirements: str, factory: str, python: str) -> None:
    """Import the factory in a virtualenv of its own. Raises Refusal with the traceback's end."""
    with tempfile.TemporaryDirectory() as scratch:
        venv, wanted = Path(scratch, "venv"), Path(scratch, "requirements.txt")
        wanted.write_text(requirements, encoding="utf-8")
        uv = tool("uv")
        interpreter = venv / "bin" / "python"
        offline = ["--quiet", "--offline", "--no-config", "--no-index", "--python", interpreter]
        run([uv, "venv", "--quiet", "--no-config", "--python", python, venv], "Making a virtualenv")
        doing = "Installing the application on the controller"
        run([uv, "pip", "install", *offline, "--find-links", house, "--require-hashes", "-r", wanted], doing)
        run([uv, "pip", "install", *offline, "--no-deps", *wheels], doing)
        module, _, attribute = factory.partition(":")
        # -I: neither this directory nor PYTHONPATH may lend the application a module that hosts lack
        code = f"import importlib; getattr(importlib.import_module({module!r}), {attribute!r})"
        run(
            [interpreter, "-I", "-c", code],
            f"tornado_app_factory is '{factory}', and importing it (Python {python})",
            cwd=scratch,
        )


def interpreter_for(target: dict[str, str]) -> str | None:
    """A Python on the controller that can import what a target's wheels hold."""
    if target["machine"] != os.uname().machine:
        return None
    command = [tool("uv"), "python", "find", "--no-config", "--no-python-downloads", target["python"]]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def check_inputs(source: Path, lock: Path, factory: str, version: str) -> None:
    """Refuse what can be refused by looking."""
    if not (source / "pyproject.toml").is_file():
        raise Refusal(f"tornado_app_source is '{source}'; allowed is a directory with a pyproject.toml.")
    if not lock.is_file():
        raise Refusal(f"tornado_app_lock is '{lock}', and no such file is there (see docs/your-application.md).")
    if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", factory):
        raise Refusal(f"tornado_app_factory is '{factory}'; allowed is package.module:factory.")
    if version and not RELEASE_NAME.fullmatch(version):
        raise Refusal(
            f"tornado_app_version is '{version}'; allowed are up to 64 letters, digits, dots, underscores and pluses."
        )


def bundle(params: dict[str, Any]) -> dict[str, Any]:
    """Build what is missing; the release's name and the bundle of each target."""
    source, lock, runner, build = (Path(params[name]).resolve() for name in ("source", "lock", "runner", "build"))
    factory, static = params["factory"], params["static"]
    check_inputs(source, lock, factory, params["version"])
    requirements = locked(lock)
    runner_is_locked(runner, requirements, lock)

    code, own = digest(source, ignore=lock), digest(runner)
    # of the lock file what it says, not its comments
    total = digest(BUNDLE_FORM, code, own, *(text for _, text in requirements), factory, static)
    application = wheel(build, source, code)
    wheels = [application, wheel(build, runner, own)]
    # A local version label (PEP 440) for the content: a changed source is another release, without a new number
    release = params["version"] or f"{application.name.split('-')[1]}+{total[:8]}"
    place = build / "bundles" / total
    place.mkdir(parents=True, exist_ok=True)

    bundles, changed = {}, False
    for target in params["targets"]:
        path = place / f"{target_name(target)}.tar"
        bundles[target_name(target)] = str(path)
        if path.exists():
            continue
        changed = True
        wanted = for_target(requirements, target)
        house = wheelhouse(build, wanted, target)
        if python := interpreter_for(target):
            check_import(wheels, house, wanted, factory, python)
        unfinished = path.with_suffix(".part")
        with tarfile.open(unfinished, "w") as tar:
            add(
                tar,
                "manifest.json",
                json.dumps({"name": params["name"], "digest": total, "factory": factory}).encode(),
            )
            add(tar, "requirements.txt", wanted.encode())
            for file in wheels:
                add(tar, f"wheels/{file.name}", file.read_bytes())
            for file in sorted(house.iterdir()):
                add(tar, f"wheelhouse/{file.name}", file.read_bytes())
            for name, data in sorted(static_files(application, static).items()) if static else []:
                add(tar, f"static/{name}", data)
                for ending, small in compressed(name, data).items():
                    add(tar, f"static/{name}{ending}", small)
        unfinished.rename(path)
    return {"changed": changed, "release": release, "digest": total, "bundles": bundles}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": {"type": "path", "required": True},
            "lock": {"type": "path", "required": True},
            "runner": {"type": "path", "required": True},
            "factory": {"type": "str", "required": True},
            "static": {"type": "str", "default": ""},
            "version": {"type": "str", "default": ""},
            "targets": {"type": "list", "elements": "dict", "required": True},
            "build": {"type": "path", "required": True},
        },
        # It changes nothing but its own cache, and a check needs its result.
        supports_check_mode=True,
    )
    try:
        module.exit_json(**bundle(module.params))
    except Refusal as refusal:
        module.fail_json(msg=str(refusal))


if __name__ == "__main__":
    main()
