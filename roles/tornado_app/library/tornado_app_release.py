"""Ansible module: a release on a host, from its bundle."""

from __future__ import annotations

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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tornado_app_account import environment_of, last_lines, run_as
from ansible.module_utils.tornado_app_entry import importing
from ansible.module_utils.tornado_app_root import Failure, alone, withdraw
from ansible.module_utils.tornado_app_text import shown
from ansible.module_utils.tornado_app_wheel import FULL, Virtualenv, inside

DOCUMENTATION = r"""
module: tornado_app_release
short_description: Install a release beside the ones that are there
description:
  - Unpacks the bundle, publishes the static files under the hash of their content, makes the environment if it is not there,
    makes the release's virtualenv from it, imports the factory, and only then gives the release its C(release.json). A directory
    without that file is unfinished and made again.
  - Nothing of a release is executed by root. Wheels are unpacked and compiled by the interpreter of the host, locked ones if
    their hash is in the lock file. The factory is imported by the application's account, which can write none of it.
  - An environment is a virtualenv with the locked requirements, complete when it has its C(environment.json). The releases that
    need it are hard links to its files, so that a release of changed code takes neither the time nor the space of its
    requirements.
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
"""

# Dates between 2001 and 2017: nginx makes ETag and Last-Modified of a file's date and size.
FIRST_DATE, DATES = 1_000_000_000, 500_000_000
ENDINGS = (".gz", ".br")  # of compressed forms

# Bytes on the disk for each byte in the tar files and in their wheels: compiled modules, and blocks that are not full. The test
# application and its environment are 23 MB there, and 24 MB on an ext4 disk; tornado alone is 2.6 and 5.4, uvloop 18 and 14.
NEED = 2
PARTS = {"archives", "manifest.json", "requirements.txt", "static", "wheels"}  # of a tar file
COMPILE_SECONDS = 600  # a file can be made that takes forever


def publish(static: Path, store: Path) -> None:
    """Put each static file where `?v=` finds it: `store/<SHA-512 of its content>/<path>`, compressed forms beside it.

    The hash is Tornado's (`StaticFileHandler.get_content_version`). Files get a date made of their content, so that
    every host gives the same ETag, and two contents of one size never the same: nginx's ETag is date and size.
    """
    for file in sorted(static.rglob("*")):
        # the build makes all files of such a name that are here; the application's own are archives
        if file.is_file() and file.suffix not in ENDINGS:
            publish_file(file, static, store, ENDINGS)


def publish_archives(archives: Path, store: Path) -> None:
    """Put each file that has the name of a compressed form, and is itself, where nginx takes it for nothing else."""
    for file in sorted(archives.rglob("*")):
        if file.is_file():
            publish_file(file, archives, store / "archives", ())


def publish_file(file: Path, top: Path, store: Path, endings: tuple[str, ...]) -> None:
    """Put a file into a store, and those beside it that have its name and an ending."""
    content = hashlib.sha512(file.read_bytes()).hexdigest()
    date = FIRST_DATE + int(content[:12], 16) % DATES
    for variant in (file, *(file.with_name(f"{file.name}{ending}") for ending in endings)):
        if not variant.is_file():
            continue
        os.utime(variant, (date, date))
        published = store / content / variant.relative_to(top)
        published.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # One file, a link to it from each release that names it: the last link is the store's own, and
        # then tornado_app_prune removes it. A link and a rename: a reader sees the whole file or none.
        there, link = (published, variant) if published.exists() else (variant, published)
        with tempfile.TemporaryDirectory(dir=store) as scratch:
            os.link(there, unfinished := Path(scratch, "file"))
            unfinished.rename(link)


def write_whole(path: Path, content: dict[str, str]) -> None:
    """Write a manifest in one step: what has one is complete."""
    unfinished = path.with_suffix(".part")
    unfinished.write_text(json.dumps(content))
    unfinished.rename(path)


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


def link_environment(environment: Path, venv: Path) -> None:
    """Give a virtualenv what another one has, as hard links, but for the scripts, which name their interpreter."""
    for folder, _, files in os.walk(environment):
        below = venv / Path(folder).relative_to(environment)
        below.mkdir(exist_ok=True)
        for file in [Path(folder, name) for name in files if not os.path.lexists(below / name)]:
            if below == venv / "bin" and (script := file.read_bytes()).startswith(b"#!"):
                (below / file.name).write_bytes(script.replace(os.fsencode(environment), os.fsencode(venv)))
                shutil.copymode(file, below / file.name)
            else:
                os.link(file, below / file.name)


class Installer:
    """One release on this host."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.root = Path(self.params["root"])
        self.place = self.root / "releases" / self.params["release"]
        self.done = self.place / "release.json"
        self.environment = self.root / "environments" / self.params["environment"]
        self.has_environment = (self.environment / "environment.json").exists()
        self.tars = {name: Path(self.params[name]) for name in ("bundle", "wheelhouse") if self.params[name]}

    def is_done(self) -> bool:
        """Whether the release is there. Raises Failure for one of its name with other content."""
        if not self.done.exists():
            return False
        if json.loads(self.done.read_text())["digest"] != self.params["digest"]:
            raise Failure(
                f"tornado_app_version is '{self.params['release']}', which is on this host already with other content; a "
                "release never changes, so allowed is a new name, or none: it is then made of version and content."
            )
        return True

    def make(self) -> None:
        """Make the release, if no other run did meanwhile, or leave the disk as it was. Raises Failure."""
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
        """Static files first: on other hosts, processes of this release may soon name them."""
        self.unpack("bundle", self.place)
        if (self.place / "static").is_dir():
            publish(self.place / "static", self.root / "static")
            publish_archives(self.place / "archives", self.root / "static")
        if not self.has_environment:
            self.make_environment()
        self.make_venv()
        write_whole(
            self.done,
            {
                "release": self.params["release"],
                "digest": self.params["digest"],
                "environment": self.params["environment"],
            },
        )

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

    def make_bare_venv(self, place: Path) -> Virtualenv:
        status, printed = self.interpret("-m", "venv", "--without-pip", place)
        if status:
            raise Failure(f"Making a virtualenv failed:\n{printed}")
        return Virtualenv(place)

    def compile(self, venv: Virtualenv) -> None:
        """Compile what was installed: the application cannot write it. What cannot be compiled may be for another Python."""
        modules = b"".join(b"%b\n" % os.fsencode(path) for path in venv.modules)
        try:
            self.interpret("-m", "compileall", "-q", "-i", "-", input=modules, timeout=COMPILE_SECONDS)
        except subprocess.TimeoutExpired:
            raise Failure(f"Compiling the modules of {venv.place} took longer than {COMPILE_SECONDS} s.") from None

    def make_environment(self) -> None:
        """Install the locked requirements, each from a wheel that the lock file has the hash of."""
        self.unpack("wheelhouse", self.environment)
        venv, wheels = self.make_bare_venv(self.environment / "venv"), {}
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
        write_whole(self.environment / "environment.json", {"environment": self.params["environment"]})

    def make_venv(self) -> None:
        """Make the release's virtualenv from its environment, and see that what is to be run is there."""
        venv, wheels = self.make_bare_venv(self.place / "venv"), self.place / "wheels"
        link_environment(self.environment / "venv", venv.place)
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
        shutil.rmtree(self.place, ignore_errors=True)
        if not self.has_environment:
            shutil.rmtree(self.environment, ignore_errors=True)
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
        },
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    try:
        changed = not Installer(module.params).is_done()
        if changed and not module.check_mode:
            os.umask(0o022)  # whatever the connection's is: the application reads below it
            with alone(root):
                Installer(module.params).make()
    except (Failure, OSError) as failure:
        module.fail_json(msg=str(failure))
    place = root / "releases" / module.params["release"]
    module.exit_json(changed=changed, diff={"before": "", "after": f"{place}\n" if changed else ""})


if __name__ == "__main__":
    main()
