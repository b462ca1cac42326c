"""Ansible module: a release on a host, from its bundle."""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.account import environment_of, last_lines, run_as
from ansible_collections.eyewall.tornado.plugins.module_utils.deploy_lock import BEGIN, RUN, Refusal, begin
from ansible_collections.eyewall.tornado.plugins.module_utils.entry import importing
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import (
    ENVIRONMENT,
    RELEASE,
    Damaged,
    Kind,
    Layout,
    is_directory,
    put,
    remove,
    sizes,
    sync,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure, alone, withdraw
from ansible_collections.eyewall.tornado.plugins.module_utils.smoke import OPTIONS, smoke_test
from ansible_collections.eyewall.tornado.plugins.module_utils.text import shown
from ansible_collections.eyewall.tornado.plugins.module_utils.wheel import FULL, Virtualenv, inside

DOCUMENTATION = r"""
module: release
short_description: Install a release beside the ones that are there, and run its smoke test
description:
  - Unpacks the bundle, makes the environment if it is not there, makes the release's virtualenv from it, imports the factory, and
    writes C(release.json), which vouches for every file. Only when all of it is on the disk are the static files published under
    the hash of their content, and does the release get its name. What is damaged is not there, and is replaced in one step.
  - Nothing of a release is executed by root. Wheels are unpacked and compiled by the interpreter of the host, locked ones if
    their hash is in the lock file. The factory is imported by the application's account, which can write none of it.
  - An environment is a virtualenv with the locked requirements, complete when it has its C(environment.json). The releases that
    need it are hard links to its files, so that a release of changed code takes neither the time nor the space of its
    requirements.
  - With C(smoke_test), what M(eyewall.tornado.smoke_test) does follows in the same call, which is a third of a second less.
  - Nothing that runs is touched. On failure, the disk is as full as before, without the two tar files.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  release: {type: str, required: true, description: Name of the release.}
  digest: {type: str, required: true, description: SHA-256 of what the release was built from.}
  bundle: {type: path, description: "The bundle on the controller, for a release that is not there. An action plugin brings it."}
  environment: {type: str, required: true, description: Name of the environment that the release needs.}
  wheelhouse: {type: path, description: "Its wheels on the controller, for one that is not there; brought likewise."}
  python: {type: path, required: true, description: The interpreter of the virtualenv.}
  user: {type: str, required: true, description: The account that imports the factory.}
  data: {type: path, required: true, description: "The account's home, in which it does."}
  timeout: {type: int, required: true, description: Seconds that the import may take.}
  smoke_test: {type: dict, description: "What M(eyewall.tornado.smoke_test) takes; without it, there is no smoke test."}
  lock:
    description: What M(eyewall.tornado.deploy_lock) takes to begin a change, which comes first; C(begun) is what it says.
    type: dict
  run: {type: dict, description: "The run of ansible-playbook; it comes from the action plugin."}
"""

# Dates between 2001 and 2017: nginx makes ETag and Last-Modified of a file's date and size.
FIRST_DATE, DATES = 1_000_000_000, 500_000_000
ENDINGS = (".gz", ".br")  # of compressed forms

# Bytes on the disk for each byte in the tar files and in their wheels: compiled modules, and blocks that are not full. The test
# application and its environment are 23 MB there, and 24 MB on an ext4 disk; tornado alone is 2.6 and 5.4, uvloop 18 and 14.
NEED = 2
PARTS = {"archives", "manifest.json", "requirements.txt", "static", "wheels"}  # of a tar file
COMPILE_SECONDS = 600  # a file can be made that takes forever


def publications(release: Path, store: Path) -> Iterator[tuple[Path, Path]]:
    """Each static file of a release, and where `?v=` finds it: `store/<SHA-512 of its content>/<path>`.

    Compressed forms are beside it. What has the name of one, and is itself, is where nginx takes it for nothing else:
    `store/archives`. The hash is Tornado's (`StaticFileHandler.get_content_version`). Files get a date made of their content, so
    that every host gives the same ETag, and two contents of one size never the same: nginx's ETag is date and size.
    """
    static, archives = release / "static", release / "archives"
    # the build makes all files of such a name that are in static; the application's own are archives
    files: list[tuple[Path, Path, Path, tuple[str, ...]]]
    files = [(file, static, store, ENDINGS) for file in sorted(static.rglob("*")) if file.suffix not in ENDINGS]
    files += [(file, archives, store / "archives", ()) for file in sorted(archives.rglob("*"))]
    for file, top, below, endings in files:
        if not file.is_file():
            continue
        content = hashlib.sha512(file.read_bytes()).hexdigest()
        date = FIRST_DATE + int(content[:12], 16) % DATES
        for variant in (file, *(file.with_name(f"{file.name}{ending}") for ending in endings)):
            if variant.is_file():
                os.utime(variant, (date, date))
                yield variant, below / content / variant.relative_to(top)


def publish(file: Path, published: Path, store: Path) -> None:
    """Put a static file where it is found, and is the same for ten years: its content is on the disk before it has that name.

    One file, a link to it from each release that names it: the last link is the store's own, and then module_utils/prune.py
    removes it. A link and a rename: a reader sees the whole file or none.
    """
    published.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    is_whole = published.is_file() and filecmp.cmp(published, file, shallow=False)
    there, link = (published, file) if is_whole else (file, published)
    if is_directory(link):
        remove(link)
    with tempfile.TemporaryDirectory(dir=store) as scratch:
        os.link(there, unfinished := Path(scratch, "file"))
        unfinished.rename(link)


def unpacked_size(archive: tarfile.TarFile) -> int:
    """Bytes of the files in a tar file, and of those in its wheels, which are zip files."""
    total = 0
    for member in archive:
        total += member.size
        if member.name.endswith(".whl") and (wheel := archive.extractfile(member)):
            total += sum(file.file_size for file in zipfile.ZipFile(wheel).infolist())
    return total


def locked(requirements: Path) -> dict[str, list[str]]:
    """The locked requirements of an environment, with the SHA-256 of every file that may be one."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return {line.partition(" --hash=")[0]: re.findall(" --hash=sha256:([0-9a-f]{64})", line) for line in lines}


def link_environment(environment: Path, venv: Path, names: tuple[Path, Path] | None = None) -> None:
    """Give a virtualenv what another one has, as hard links, but for the scripts, which name their interpreter.

    `names` are what the two are called in scripts: where they are going to be.
    """
    old, new = map(os.fsencode, names or (environment, venv))
    for folder, _, files in os.walk(environment):
        below = venv / Path(folder).relative_to(environment)
        below.mkdir(exist_ok=True)
        for file in [Path(folder, name) for name in files if not os.path.lexists(below / name)]:
            if below == venv / "bin" and (script := file.read_bytes()).startswith(b"#!"):
                (below / file.name).write_bytes(script.replace(old, new))
                shutil.copymode(file, below / file.name)
            else:
                os.link(file, below / file.name)


class Installer:
    """One release on this host."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.root = Path(self.params["root"])
        self.layout = Layout(self.root)
        # where it is made, and where it is then
        self.place = self.layout.unfinished(RELEASE, self.params["release"])
        self.final = self.layout.place(RELEASE, self.params["release"])
        self.has_environment = self.layout.is_complete(ENVIRONMENT, self.params["environment"])
        self.final_environment = self.layout.place(ENVIRONMENT, self.params["environment"])
        self.environment = self.layout.unfinished(ENVIRONMENT, self.params["environment"])
        self.tars = {name: Path(self.params[name]) for name in ("bundle", "wheelhouse") if self.params[name]}

    def is_done(self) -> bool:
        """Whether the release is there, whole. Raises Failure for one of its name with other content."""
        try:
            digest = self.layout.manifest(RELEASE, self.params["release"])["digest"]
        except Damaged:
            return False
        if digest != self.params["digest"]:
            raise Failure(
                f"tornado_app_version: got '{self.params['release']}', which is on this host already with other content; "
                "expected a new name, because a release never changes, or none: it is then made of version and content."
            )
        return self.layout.is_complete(RELEASE, self.params["release"])

    def make(self) -> None:
        """Make the release, unless another run has since, or leave the disk as it was. Raises Failure."""
        try:
            if not self.is_done():
                self.install()
        finally:
            for tar in self.tars.values():
                tar.unlink(missing_ok=True)

    def install(self) -> None:
        """Make the release. Raises Failure, and whatever else stopped it, once what was made is gone."""
        names = ["bundle"] if self.has_environment else ["bundle", "wheelhouse"]
        for name in names:
            if not (name in self.tars and self.tars[name].exists()):
                raise Failure(
                    f"The {name} of release {self.params['release']} is not on this host, and it is made of that; "
                    "run the same command again."
                )
        needed = 0
        for name in names:
            with self.opened(name) as archive:
                needed += NEED * unpacked_size(archive)
        try:
            if shutil.disk_usage(self.root).free < needed:
                raise OSError(FULL[0], "nothing was unpacked")  # noqa: TRY301 -- one sentence for both
            self.steps()
        except BaseException as error:
            free = shutil.disk_usage(self.root).free
            self.clean()
            if isinstance(error, OSError) and error.errno in FULL:
                raise Failure(
                    f"{socket.gethostname()} has no space left in {self.root} for release {self.params['release']}: "
                    f"{free} bytes were free, and about {needed} are needed ({error.strerror})."
                ) from None
            raise

    @contextmanager
    def opened(self, name: str) -> Iterator[tarfile.TarFile]:
        """A tar file that was sent. Raises Failure where it is none."""
        try:
            with tarfile.open(self.tars[name], "r:") as archive:
                yield archive
        except (Failure, tarfile.TarError, zipfile.BadZipFile) as error:
            raise Failure(f"The {name} of release {self.params['release']} cannot be unpacked: {error}") from None

    def unpack(self, name: str, place: Path) -> None:
        """Unpack a tar file into a directory, again if an interrupted run left one: regular files, with modes of ours."""
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True)
        with self.opened(name) as archive:
            for member in archive:
                path = inside(member.name)
                source = archive.extractfile(member) if member.isreg() and path.parts[0] in PARTS else None
                if not source:
                    raise Failure(f"it has {member.name!r}; expected files alone, below {', '.join(sorted(PARTS))}.")
                (place / path).parent.mkdir(parents=True, exist_ok=True)
                with source, (place / path).open("xb") as file:
                    shutil.copyfileobj(source, file)

    def steps(self) -> None:
        """Make everything under another name; what is on the disk then gets its own, the release last.

        A damaged one, whose processes may be serving, is there until the whole one takes its place.
        """
        self.unpack("bundle", self.place)
        if not self.has_environment:
            self.make_environment()
            self.finish(ENVIRONMENT, self.environment, {})
        self.make_venv()
        store = self.layout.static
        published = list(publications(self.place, store))
        content = {name: self.params[name] for name in ("release", "digest", "environment")}
        self.finish(RELEASE, self.place, content, {path: file.stat().st_size for file, path in published})
        sync(self.root)
        for file, path in published:
            publish(file, path, store)
        if not self.has_environment:
            put(self.environment, self.final_environment)
        sync(self.root)
        put(self.place, self.final)

    def finish(
        self, kind: Kind, place: Path, content: dict[str, str], published: Mapping[Path, int] | None = None
    ) -> None:
        """Write a manifest, which vouches for every file below a directory and for those that were published."""
        name = self.params[kind.manifest.removesuffix(".json")]
        found = sizes(place, f"{kind.directory}/{name}")
        found |= {str(path.relative_to(self.root)): size for path, size in (published or {}).items()}
        manifest = {kind.manifest.removesuffix(".json"): name, **content, "sizes": found}
        (place / kind.manifest).write_text(json.dumps(manifest))

    def interpret(self, *words: str | Path, **options: Any) -> tuple[int, str]:
        """Run the host's interpreter, which reads nothing of a virtualenv; its exit status, and the end of what it printed.

        Raises OSError when the disk is full.
        """
        command = [self.params["python"], "-I", *map(str, words)]
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            command, cwd="/", env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False, **options
        )
        for line in done.stdout.decode(errors="replace").splitlines():
            if any(os.strerror(code) in line for code in FULL):
                raise OSError(FULL[0], line)
        return done.returncode, shown(done.stdout)

    def make_bare_venv(self, place: Path, name: Path) -> Virtualenv:
        """Make a virtualenv that is going to be called `name`."""
        status, printed = self.interpret("-m", "venv", "--without-pip", place)
        if status:
            raise Failure(f"Making a virtualenv failed:\n{printed}")
        for file in [place / "pyvenv.cfg", *(place / "bin").iterdir()]:
            if not file.is_symlink():
                file.write_bytes(file.read_bytes().replace(os.fsencode(place), os.fsencode(name)))
        return Virtualenv(place, name)

    def compile(self, venv: Virtualenv) -> None:
        """Compile what was installed: the application cannot write it. What cannot be compiled may be for another Python."""
        modules = b"".join(b"%b\n" % os.fsencode(path) for path in venv.modules)
        # a traceback names the files as they are going to be called
        names = ("-s", venv.place, "-p", venv.name)
        try:
            self.interpret("-m", "compileall", "-q", *names, "-i", "-", input=modules, timeout=COMPILE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"Compiling the modules of {venv.place} took longer than {COMPILE_SECONDS} s.") from None

    def make_environment(self) -> None:
        """Install the locked requirements, each from a wheel that the lock file has the hash of."""
        self.unpack("wheelhouse", self.environment)
        venv, wheels = self.make_bare_venv(self.environment / "venv", self.final_environment / "venv"), {}
        for path in sorted((self.environment / "wheels").glob("*")):
            with path.open("rb") as file:
                wheels[hashlib.file_digest(file, "sha256").hexdigest()] = path
        for requirement, hashes in locked(self.environment / "requirements.txt").items():
            found = next((wheels[digest] for digest in hashes if digest in wheels), None)
            if not found:
                target = self.params["environment"].rpartition("-")[0]
                raise Failure(
                    f"{socket.gethostname()}: the wheelhouse has no wheel of '{requirement}' for {target} with a hash that the "
                    "lock file has."
                )
            with found.open("rb") as file:
                venv.install(file, found.name)
        self.compile(venv)
        shutil.rmtree(self.environment / "wheels")

    def make_venv(self) -> None:
        """Make the release's virtualenv from its environment, and see that what is to be run is there."""
        venv, wheels = self.make_bare_venv(self.place / "venv", self.final / "venv"), self.place / "wheels"
        final = self.final_environment / "venv"
        link_environment(final if self.has_environment else self.environment / "venv", venv.place, (final, venv.name))
        for wheel in sorted(wheels.glob("*")):
            with wheel.open("rb") as file:
                venv.install(file, wheel.name)
        self.compile(venv)
        self.look_for_the_entry()
        shutil.rmtree(wheels)

    def look_for_the_entry(self) -> None:
        """Look for what is to be run, as the account that will run it: here the release's code runs for the first time."""
        doing, code = importing(json.loads((self.place / "manifest.json").read_text())["entry"])
        # where it hangs, if it does, before it is killed
        code = f"import faulthandler; faulthandler.dump_traceback_later({self.params['timeout'] * 0.9})\n{code}"
        user, data = self.params["user"], self.params["data"]
        try:
            failure, said = run_as(
                user,
                [str(self.place / "venv" / "bin" / "python"), "-I", "-c", code],
                seconds=self.params["timeout"],
                variable="tornado_app_start_timeout",
                cwd=data,
                env=environment_of(user, data),
            )
        except OSError as error:
            raise Failure(f"{doing} on this host failed: {error}.") from None
        if failure:
            raise Failure(f"{doing} on this host failed: it {failure}. {last_lines(said)}")

    def clean(self) -> None:
        """Remove what an installation made that did not come to its end."""
        for place in (self.place, self.environment):
            shutil.rmtree(place, ignore_errors=True)
        withdraw(self.root / "static")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "digest": {"type": "str", "required": True},
            "bundle": {"type": "path"},
            "environment": {"type": "str", "required": True},
            "wheelhouse": {"type": "path"},
            "python": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "data": {"type": "path", "required": True},
            "timeout": {"type": "int", "required": True},
            "smoke_test": {"type": "dict", "options": OPTIONS},
            "run": RUN,
            "lock": {"type": "dict", "options": BEGIN},
        },
        supports_check_mode=True,
    )
    params: dict[str, Any] = module.params
    root, begun, tested = Path(params["root"]), {}, {}
    try:
        if params["lock"]:
            begun = begin(root, params["run"], params["lock"], module.warn, check=module.check_mode)
        changed = not Installer(params).is_done()
        if changed and not module.check_mode:
            os.umask(0o022)  # whatever the connection's is: the application reads below it
            with alone(root):
                Installer(params).make()
        if params["smoke_test"]:
            tested = smoke_test(params["smoke_test"], check=module.check_mode)
    except Refusal as refusal:
        module.fail_json(msg=str(refusal), lock=refusal.lock)
    except (Failure, OSError) as failure:
        module.fail_json(msg=str(failure), begun=begun)
    place = root / "releases" / module.params["release"]
    module.exit_json(
        **{**tested, "changed": changed}, begun=begun, diff={"before": "", "after": f"{place}\n" if changed else ""}
    )


if __name__ == "__main__":
    main()
