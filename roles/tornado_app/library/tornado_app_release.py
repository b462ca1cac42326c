"""Ansible module: a release on a host, from its bundle."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tornado_app_entry import importing
from ansible.module_utils.tornado_app_root import Failure, alone, withdraw
from ansible.module_utils.tornado_app_text import shown

DOCUMENTATION = r"""
module: tornado_app_release
short_description: Install a release beside the ones that are there
description:
  - Unpacks the bundle, publishes the static files under the hash of their content, makes the environment if it is not there,
    makes the release's virtualenv from it, imports the factory, and only then gives the release its C(release.json). A directory
    without that file is unfinished and made anew.
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
"""

# Dates between 2001 and 2017: nginx makes ETag and Last-Modified of a file's date and size.
FIRST_DATE, DATES = 1_000_000_000, 500_000_000

# Bytes on the disk for each byte in the tar files and in their wheels: compiled modules, and pip. The reference
# application and its environment are 22 MB there, and 48 MB on an ext4 disk.
NEED = 2
FULL = (errno.ENOSPC, errno.EDQUOT)


def publish(static: Path, store: Path) -> None:
    """Put each static file where `?v=` finds it: `store/<SHA-512 of its content>/<path>`, compressed forms beside it.

    The hash is Tornado's (`StaticFileHandler.get_content_version`). Files get a date made of their content, so that
    every host gives the same ETag, and two contents of one size never the same: nginx's ETag is date and size.
    """
    for file in sorted(static.rglob("*")):
        compressed = file.suffix in (".gz", ".br") and file.with_suffix("").is_file()
        if compressed or not file.is_file():
            continue
        content = hashlib.sha512(file.read_bytes()).hexdigest()
        date = FIRST_DATE + int(content[:12], 16) % DATES
        for variant in (file, file.with_name(f"{file.name}.gz"), file.with_name(f"{file.name}.br")):
            if not variant.exists():
                continue
            os.utime(variant, (date, date))
            published = store / content / variant.relative_to(static)
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


def unpacked_size(tar: Path) -> int:
    """Bytes of the files in a tar file, and of those in its wheels, which are zip files."""
    total = 0
    with tarfile.open(tar) as archive:
        for member in archive:
            total += member.size
            if member.name.endswith(".whl") and (wheel := archive.extractfile(member)):
                total += sum(file.file_size for file in zipfile.ZipFile(wheel).infolist())
    return total


def link_environment(environment: Path, venv: Path) -> None:
    """Give a virtualenv what another one has, as hard links, but for the scripts, which name their interpreter."""
    for folder, _, files in os.walk(environment):
        below = venv / Path(folder).relative_to(environment)
        below.mkdir(exist_ok=True)
        for file in [Path(folder, name) for name in files if not os.path.lexists(below / name)]:
            # The whole text, and not the first line alone: pip writes a long path into the second line (/bin/sh, exec)
            if below == venv / "bin" and (script := file.read_bytes()).startswith(b"#!"):
                (below / file.name).write_bytes(script.replace(os.fsencode(environment), os.fsencode(venv)))
                shutil.copymode(file, below / file.name)
            else:
                os.link(file, below / file.name)


class Installer:
    """One release on this host."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.params: dict[str, Any] = module.params
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

    def run(self, doing: str, *command: str | Path) -> None:
        """Run a command. Raises Failure with the last lines of what it printed."""
        words = [str(word) for word in command]
        status, out, error = self.module.run_command(words, cwd="/", environ_update={"LC_ALL": "C.UTF-8"})
        if status:
            lines = (out + error).strip().splitlines()
            for line in lines:
                if any(os.strerror(code) in line for code in FULL):
                    raise OSError(errno.ENOSPC, line)
            raise Failure(f"{doing} failed:\n{shown((out + error).encode(errors='surrogateescape'))}")

    def pip(self, doing: str, venv: Path, *words: str | Path) -> None:
        """Install with a virtualenv's own pip, which neither asks an index nor reads what this host tells pip."""
        command = ["-I", "-m", "pip", "--isolated", "install", "--quiet", "--no-cache-dir", "--no-index"]
        try:
            self.run(doing, venv / "bin" / "python", *command, *words)
        except Failure as failure:
            if lacking := re.search("No matching distribution found for (.+)", str(failure)):
                target = self.params["environment"].rpartition("-")[0]
                raise Failure(
                    f"{socket.gethostname()}: the wheelhouse has no wheel of '{lacking[1]}' for {target}. "
                    "The last lines of pip:\n" + str(failure).partition("\n")[2]
                ) from None
            raise

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
        needed = NEED * sum(unpacked_size(self.tars[name]) for name in names)
        try:
            if shutil.disk_usage(self.root).free < needed:
                raise OSError(errno.ENOSPC, "nothing was unpacked")  # noqa: TRY301 -- one sentence for both
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

    def unpack(self, tar: Path, place: Path) -> None:
        """Unpack a tar file into a directory, anew if an interrupted run left one."""
        if place.exists():
            shutil.rmtree(place)
        place.mkdir(parents=True)
        self.run(f"Unpacking {tar}", "tar", "--extract", "--no-same-owner", "--file", tar, "--directory", place)

    def steps(self) -> None:
        """Static files first: on other hosts, processes of this release may soon name them."""
        self.unpack(self.tars["bundle"], self.place)
        if (self.place / "static").is_dir():
            publish(self.place / "static", self.root / "static")
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

    def make_bare_venv(self, venv: Path) -> None:
        self.run("Making a virtualenv", self.params["python"], "-m", "venv", "--without-pip", venv)

    def add_pip(self, venv: Path) -> None:
        """Install pip, which Debian has in python3-venv. venv(1) can do it too, and does not say what went wrong then."""
        self.run("Installing pip", venv / "bin" / "python", "-I", "-m", "ensurepip", "--default-pip")

    def make_environment(self) -> None:
        self.unpack(self.tars["wheelhouse"], self.environment)
        venv, wheels = self.environment / "venv", self.environment / "wheels"
        self.make_bare_venv(venv)
        self.add_pip(venv)
        locked = ["--require-hashes", "-r", self.environment / "requirements.txt"]
        self.pip("Installing the locked requirements", venv, "--find-links", wheels, *locked)
        shutil.rmtree(wheels)
        write_whole(self.environment / "environment.json", {"environment": self.params["environment"]})

    def make_venv(self) -> None:
        """Make the release's virtualenv from its environment, and see that what is to be run is there."""
        venv, wheels = self.place / "venv", self.place / "wheels"
        self.make_bare_venv(venv)
        link_environment(self.environment / "venv", venv)
        self.pip("Installing the application", venv, "--no-deps", *sorted(wheels.glob("*.whl")))
        doing, code = importing(json.loads((self.place / "manifest.json").read_text())["entry"])
        self.run(f"{doing} on this host", venv / "bin" / "python", "-I", "-c", code)
        shutil.rmtree(wheels)

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
        },
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    try:
        changed = not Installer(module).is_done()
        if changed and not module.check_mode:
            os.umask(0o022)  # whatever the connection's is: the application reads below it
            with alone(root):
                Installer(module).make()
    except (Failure, OSError) as failure:
        module.fail_json(msg=str(failure))
    place = root / "releases" / module.params["release"]
    module.exit_json(changed=changed, diff={"before": "", "after": f"{place}\n" if changed else ""})


if __name__ == "__main__":
    main()
