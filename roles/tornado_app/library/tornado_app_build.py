"""Ansible module, for the controller: build the bundle of a release."""

from __future__ import annotations

import base64
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import brotli
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tornado_app_entry import importing, mistake
from ansible.module_utils.tornado_app_text import shown
from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename

DOCUMENTATION = r"""
module: tornado_app_build
short_description: Build what hosts install of a release, once, on the controller
description:
  - A bundle is a tar file with the application's and the runner's wheels and the static files, compressed beforehand. A
    wheelhouse is a tar file with every locked requirement for one Python version, architecture and C library, which together are
    an environment. A host that has the environment needs the bundle alone, and no host needs a package index.
  - They are made anew only when the source, the lock file or the runner changed.
  - The application is imported on the controller, where an interpreter of a host's version is there, so that one that
    cannot be imported stops before any host is touched.
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
  runner: {type: path, required: true, description: Directory with the runner's C(pyproject.toml).}
  entry:
    description: What is run, C(package.module:factory), C(-m module), or C({site}/file) for a file of the application.
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
BUNDLE_FORM = "3"
LINES = 50  # that are shown of what a command printed
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


def run(command: list[str | Path], doing: str, variables: dict[str, str] | None = None, **options: Any) -> str:
    """Run a command; its output, or a Refusal that says what it was doing and what it printed."""
    # Bytes that depend on the day are other bytes on the next: wheels are zip files with dates.
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1577836800", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        env=environment | (variables or {}),
        check=False,
        **options,
    )
    if done.returncode:
        raise Refusal(f"{doing} failed:\n{shown(done.stdout + done.stderr, lines=LINES)}")
    return done.stdout.decode(errors="replace")


def tool(name: str) -> str:
    """A program that was installed beside this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise Refusal(f"{name} is not installed beside {sys.executable}: run make tools.")
    return found


def without_credentials(source: str) -> str:
    """A source as it may be shown: without what stands before the host in its address."""
    return re.sub(r"(?<=://)[^/\s]*@", "", source)


class Repository:
    """A git repository, kept on the controller as a bare mirror of its branches and tags.

    Everything goes through the mirror's directory and the address alone: no remote is configured, so nothing of the
    address is written to disk.
    """

    def __init__(self, source: str, build: Path) -> None:
        self.shown = without_credentials(source)
        parts = urlsplit(source.removeprefix("git+"))
        path, _, self.reference = parts.path.rpartition("@") if "@" in parts.path else (parts.path, "", "")
        key, _, self.subdirectory = parts.fragment.partition("=")
        inside = not {"/", ".."} & set(PurePosixPath(self.subdirectory).parts)
        if parts.scheme not in ("https", "http", "ssh", "file") or key not in ("", "subdirectory") or not inside:
            raise Refusal(
                f"tornado_app_source is '{self.shown}'; allowed is git+https://, git+ssh:// or git+file://, then a "
                "repository, then, if wanted, @reference and #subdirectory=path inside it."
            )
        # never a question: nobody is there to answer it (git(1), GIT_TERMINAL_PROMPT; an empty GIT_ASKPASS is no program)
        self.variables = {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "GIT_SSH_COMMAND": f"{os.environ.get('GIT_SSH_COMMAND', 'ssh')} -o BatchMode=yes",
        }
        host, user = parts.netloc.rpartition("@")[2], unquote(parts.username or "")
        if parts.password is not None and parts.scheme in ("https", "http"):
            # in git's environment, because everybody on the controller may read its arguments (git-config(1))
            secret = base64.b64encode(f"{user}:{unquote(parts.password)}".encode()).decode()
            self.variables |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"http.{parts.scheme}://{host}/.extraHeader",
                "GIT_CONFIG_VALUE_0": f"Authorization: Basic {secret}",
            }
        elif user:
            host = f"{parts.username}@{host}"
        self.address = urlunsplit((parts.scheme, host, path, "", ""))
        place = without_credentials(self.address)
        self.mirror = build / "git" / f"{PurePosixPath(path).stem}-{digest(place)[:16]}"

    def git(self, doing: str, *words: str | Path, **variables: str) -> str:
        if not shutil.which("git"):
            raise Refusal(f"tornado_app_source is '{self.shown}', and the controller has no git program: install git.")
        try:
            return run(["git", "--git-dir", self.mirror, *words], doing, self.variables | variables)
        except Refusal as refusal:
            raise Refusal(without_credentials(str(refusal))) from None

    def commit(self, name: str) -> str | None:
        """The commit that a name stands for in the mirror; None for a name that it does not have."""
        command = ["git", "--git-dir", str(self.mirror), "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None

    def find(self, reference: str) -> tuple[str, bool]:
        """The commit of a reference ("" for the default branch), and whether it is a tag.

        A tag and a commit never change: the remote is asked only for one that is not here yet.
        """
        tag, branch = f"refs/tags/{reference}", f"refs/heads/{reference}" if reference else "refs/default"

        def here(*names: str) -> tuple[str, bool] | None:
            for name in names:
                found = self.commit(name)
                # by itself a reference is a commit's own name, and neither HEAD nor a branch as it was last time
                if found and (name != reference or found.startswith(reference)):
                    return found, name == tag
            return None

        self.mirror.parent.mkdir(parents=True, exist_ok=True)
        self.git("Making a mirror", "init", "--quiet", "--bare", "--template=")
        if known := here(tag, reference):
            return known
        wanted = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        # not always: a repository whose HEAD names a branch that it lacks has tags all the same
        wanted += [] if reference else ["+HEAD:refs/default"]
        self.git(f"Fetching tornado_app_source '{self.shown}'", "fetch", "--quiet", "--prune", self.address, *wanted)
        if known := here(tag, branch, reference):
            return known
        tags = self.git(
            "Listing tags", "for-each-ref", "--count=5", "--sort=-creatordate", "--format=%(refname:short)", "refs/tags"
        )
        has = f"its newest tags are {', '.join(tags.split())}" if tags else "it has no tags"
        raise Refusal(f"tornado_app_source is '{self.shown}', which has no tag, branch or commit '{reference}'; {has}.")

    @contextmanager
    def exported(self, version: str) -> Iterator[tuple[Path, str]]:
        """The files of the wanted commit in a temporary directory, and the name of the release if a tag gives one."""
        if version and self.reference not in ("", version):
            raise Refusal(
                f"tornado_app_version is '{version}' and tornado_app_source has the reference '@{self.reference}'; "
                "allowed is one of the two: without @reference, tornado_app_version is the reference."
            )
        reference = self.reference or version
        commit, is_tag = self.find(reference)
        with tempfile.TemporaryDirectory() as scratch:
            # A checkout and no archive: it gives the files that a developer has, whatever .gitattributes says
            tree = Path(scratch, "tree").resolve()
            tree.mkdir()
            self.git(
                f"Checking out '{self.shown}'", "--work-tree", tree, "checkout", "--quiet", "--force", commit, "--", ".",
                GIT_INDEX_FILE=str(Path(scratch, "index")),
            )  # fmt: skip
            place = tree / self.subdirectory
            try:
                # a branch moves, and so names no release; a commit's name says nothing to anybody
                yield place, reference if is_tag and RELEASE_NAME.fullmatch(reference) else ""
            except Refusal as refusal:
                raise Refusal(str(refusal).replace(str(place), self.shown)) from None


def is_wheel(path: Path) -> bool:
    return path.suffix == ".whl" and path.is_file()


@contextmanager
def delivered(source: str, version: str, build: Path) -> Iterator[tuple[Path, str]]:
    """A directory or a wheel, wherever it comes from, and the name of the release, "" for one made of its content."""
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
    yield path, version


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


def runner_is_locked(runner: Path, requirements: list[tuple[Requirement, str]], lock: Path, needs: list[str]) -> None:
    """Refuse a lock file without the runner's own requirements, or without what else `needs` names."""
    project = tomllib.loads((runner / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    have = {canonicalize_name(requirement.name) for requirement, _ in requirements}
    lacking = sorted({canonicalize_name(Requirement(need).name) for need in project["dependencies"]} - have)
    if lacking:
        raise Refusal(
            f"tornado_app_lock: {lock} lacks {', '.join(lacking)}, which the runner needs. Name {runner}/pyproject.toml "
            "among the inputs of uv pip compile (see docs/your-application.md)."
        )
    if lacking := sorted(set(needs) - have):
        raise Refusal(
            f"tornado_app_lock: {lock} lacks {', '.join(lacking)}, which tornado_app_server: wsgi needs. Name it among the "
            "application's dependencies, and make the file anew (see docs/your-application.md)."
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


def wheelhouse(build: Path, requirements: str, target: dict[str, str], environment: str) -> Path:
    """A directory with a wheel of each requirement for the target, hashes checked; kept between runs."""
    house = build / "wheelhouses" / environment
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


def check_import(wheels: list[Path], house: Path, requirements: str, entry: str, python: str) -> None:
    """Look for what is to be run in a virtualenv of its own. Raises Refusal with the traceback's end."""
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
        run(
            [uv, "pip", "check", "--no-config", "--python", interpreter],
            "Finding all that is needed in tornado_app_lock",
        )
        doing, code = importing(entry)
        # -I: neither this directory nor PYTHONPATH may lend the application a module that hosts lack
        run([interpreter, "-I", "-c", code], f"{doing} on the controller", cwd=scratch)


def interpreter_for(target: dict[str, str]) -> str | None:
    """A Python on the controller that can import what a target's wheels hold."""
    if target["machine"] != os.uname().machine:
        return None
    command = [tool("uv"), "python", "find", "--no-config", "--no-python-downloads", target["python"]]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    return found.stdout.strip() if found.returncode == 0 else None


def check_inputs(source: str, place: Path, lock: Path, entry: str) -> None:
    """Refuse what can be refused by looking."""
    if not (is_wheel(place) or (place / "pyproject.toml").is_file()):
        raise Refusal(
            f"tornado_app_source is '{without_credentials(source)}'; allowed is a directory with a pyproject.toml, a wheel, "
            "or git+https:// and a repository with a pyproject.toml (see docs/your-application.md)."
        )
    if not lock.is_file():
        raise Refusal(f"tornado_app_lock is '{lock}', and no such file is there (see docs/your-application.md).")
    if wrong := mistake(entry):
        raise Refusal(wrong)


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


def bundle(params: dict[str, Any]) -> dict[str, Any]:
    """Build what is missing; the release's name, and what each target's hosts get."""
    build = Path(params["build"]).resolve()
    with delivered(params["source"], params["version"], build) as (place, name):
        return deliver(params, place, name, build)


def deliver(params: dict[str, Any], source: Path, name: str, build: Path) -> dict[str, Any]:
    """The same for a source that is a directory or a wheel; without a name, the release is named by its content."""
    entry, static = params["entry"], params["static"]
    runner = Path(params["runner"]).resolve()
    lock = Path(source.parent if is_wheel(source) else source, params["lock"]).resolve()
    check_inputs(params["source"], source, lock, entry)
    requirements = locked(lock)
    runner_is_locked(runner, requirements, lock, params["needs"])

    code = hashlib.sha256(source.read_bytes()).hexdigest() if is_wheel(source) else digest(source, ignore=lock)
    own = digest(runner)
    # of the lock file what it says, not its comments
    total = digest(BUNDLE_FORM, code, own, *(text for _, text in requirements), entry, static)
    application = source if is_wheel(source) else wheel(build, source, code)
    wheels = [application, wheel(build, runner, own)]
    # A local version label (PEP 440) for the content: a changed source is another release, without a new number
    release = name or f"{application.name.split('-')[1]}+{total[:8]}"

    targets, changed = {}, False
    for target in params["targets"]:
        wanted = for_target(requirements, target)
        environment = f"{target_name(target)}-{digest(BUNDLE_FORM, wanted)[:16]}"
        path = build / "bundles" / total / f"{target_name(target)}.tar"
        house = build / "wheelhouses" / f"{environment}.tar"
        targets[target_name(target)] = {"bundle": str(path), "environment": environment, "wheelhouse": str(house)}
        if path.exists() and house.exists():
            continue
        changed = True
        found = wheelhouse(build, wanted, target, environment)
        with ThreadPoolExecutor() as beside:
            # an import and a compression take a CPU each
            python = interpreter_for(target)
            checked = beside.submit(check_import, wheels, found, wanted, entry, python) if python else None
            held = {"manifest.json": json.dumps({"name": params["name"], "digest": total, "entry": entry}).encode()}
            held |= {f"wheels/{file.name}": file.read_bytes() for file in wheels}
            for below, data in sorted(static_files(application, static).items()) if static else []:
                variants = {"": data} | compressed(below, data)
                held |= {f"static/{below}{ending}": content for ending, content in variants.items()}
        if checked:
            checked.result()
        if not house.exists():
            dependencies = {f"wheels/{file.name}": file.read_bytes() for file in sorted(found.iterdir())}
            write_tar(house, {"requirements.txt": wanted.encode()} | dependencies)
        write_tar(path, held)
    return {"changed": changed, "release": release, "digest": total, "targets": targets}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source": {"type": "path", "required": True},
            "lock": {"type": "path", "required": True},
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
        module.exit_json(**bundle(params))
    except Refusal as refusal:
        module.fail_json(msg=str(refusal))


if __name__ == "__main__":
    main()
