"""Install wheels into a virtualenv by a Python that is not the virtualenv's, and without executing anything of theirs.

The form is https://packaging.python.org/en/latest/specifications/binary-distribution-format/. Root installs what strangers
wrote. So a wheel gets regular files below the virtualenv, owned by root and with modes of ours, also in the place of another
wheel's, never of the virtualenv's own, and none that its RECORD does not vouch for.

Existing tools do not: pip is part of the virtualenv, whose `.pth` files Python executes first; PyPA's installer (0.6 in Debian
12) writes wherever a path leads, compares no hash, and never ends on a directory called `name-1.0.database`.
"""

from __future__ import annotations

import base64
import configparser
import csv
import errno
import hashlib
import io
import os
import re
import zipfile
from collections.abc import Iterator
from email import message_from_string
from pathlib import Path, PurePosixPath
from typing import IO

from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure

FULL = (errno.ENOSPC, errno.EDQUOT)
HASHES = ("sha256", "sha384", "sha512")  # what the specification takes
UNVOUCHED = ("RECORD", "RECORD.jws", "RECORD.p7s")  # in the dist-info directory: RECORD and its signatures
ENTRY_POINT = re.compile(r"(\w+(?:\.\w+)*)\s*:\s*(\w+(?:\.\w+)*)\s*(?:\[.*\])?")
SCRIPT = """#!{python}
import sys

from {module} import {name}

if __name__ == "__main__":
    sys.exit({function}())
"""


def inside(name: str) -> PurePosixPath:
    """A path as an archive has it. Raises Failure for one that leads out of where the archive is unpacked."""
    path = PurePosixPath(name)
    if not path.parts or path.is_absolute() or ".." in path.parts or re.search(r"[\x00-\x1f\x7f]", name):
        raise Failure(f"it has the file {name!r}; expected a path inside it.")
    return path


class Virtualenv:
    """A virtualenv that was just made, and what is installed into it."""

    def __init__(self, place: Path, name: Path | None = None) -> None:
        self.place, self.name = place, name or place  # what it is called in scripts, where it is going to be
        (self.packages,) = place.glob("lib/python*/site-packages")
        # pyvenv.cfg, bin/python, lib64, …
        self.own = {path for path in place.rglob("*") if path.is_symlink() or not path.is_dir()}
        self.modules: list[Path] = []  # that can be compiled

    def install(self, file: IO[bytes], name: str) -> None:
        """Install a wheel. Raises Failure for one that is not as it should be, and OSError when the disk is full."""
        try:
            with zipfile.ZipFile(file) as archive:
                Wheel(archive, self).install()
        except Failure as failure:
            raise Failure(f"{name} cannot be installed: {failure}") from None
        except Exception as error:  # whatever parsers say of bytes that were made to confuse them
            if isinstance(error, OSError) and error.errno in FULL:
                raise
            raise Failure(f"{name} cannot be installed: {error!r}.") from None

    def write(self, target: Path, source: IO[bytes], executable: bool, algorithm: str) -> bytes:
        """Write a file; its hash. Another wheel's is replaced, as pip does, and not written into: it may be a hard link."""
        if target in self.own:
            raise Failure(f"it has a file for {target}, which is the virtualenv's own.")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        mode = 0o755 if executable else 0o644
        with open(target, "xb", opener=lambda path, flags: os.open(path, flags, mode)) as file:
            total = hashlib.new(algorithm)
            while piece := source.read(1 << 20):
                total.update(piece)
                file.write(piece)
        if target.suffix == ".py" and target.is_relative_to(self.packages):
            self.modules.append(target)
        return total.digest()


class Wheel:
    """A wheel on its way into a virtualenv."""

    def __init__(self, archive: zipfile.ZipFile, venv: Virtualenv) -> None:
        self.archive, self.venv = archive, venv
        infos = {name.split("/")[0] for name in archive.namelist() if re.match(r"[^/]+\.dist-info/", name)}
        if len(infos) != 1:
            raise Failure(f"it has {len(infos)} directories *.dist-info; expected one.")
        self.info = infos.pop()
        self.data = self.info.removesuffix(".dist-info") + ".data"
        self.python = venv.name / "bin" / "python"
        self.record: dict[str, tuple[str, int]] = {}  # hash and size, by path

    def read(self, name: str) -> str:
        return self.archive.read(f"{self.info}/{name}").decode()

    def install(self) -> None:
        version = message_from_string(self.read("WHEEL"))["Wheel-Version"]
        if not (version and version.startswith("1.")):
            raise Failure(f"its Wheel-Version is {version}; expected 1.x.")
        vouched = {row[0]: row[1] for row in csv.reader(self.read("RECORD").splitlines()) if row[1:]}
        for member in self.archive.infolist():
            path = inside(member.filename)
            if not member.is_dir() and not (str(path.parent) == self.info and path.name in UNVOUCHED):
                self.unpack(member, path, vouched.get(member.filename, ""))
        for name, module, function in self.entry_points():
            text = SCRIPT.format(python=self.python, module=module, name=function.split(".")[0], function=function)
            self.write(self.venv.place / "bin" / name, io.BytesIO(text.encode()), executable=True)
        self.write_record()

    def place(self, path: PurePosixPath) -> tuple[Path, bool]:
        """Where a file goes, and whether it is a script."""
        if path.parts[0] != self.data:
            return self.venv.packages / path, False
        places = {
            # one directory in a virtualenv on Debian
            "purelib": self.venv.packages,
            "platlib": self.venv.packages,
            "scripts": self.venv.place / "bin",
            "data": self.venv.place,
            # where pip puts them
            "headers": self.venv.place / "include" / "site" / self.venv.packages.parent.name / self.info.split("-")[0],
        }
        if len(path.parts) < 3 or path.parts[1] not in places:
            raise Failure(f"it has the file {str(path)!r}; expected {self.data}/ and one of {', '.join(places)}.")
        return places[path.parts[1]].joinpath(*path.parts[2:]), path.parts[1] == "scripts"

    def unpack(self, member: zipfile.ZipInfo, path: PurePosixPath, vouched: str) -> None:
        """Write a file whose hash is as RECORD says."""
        algorithm, _, expected = vouched.partition("=")
        if algorithm not in HASHES:
            raise Failure(f"RECORD has {vouched!r} for the file {str(path)!r}; expected a hash ({', '.join(HASHES)}).")
        target, is_script = self.place(path)
        executable = is_script or bool(member.external_attr >> 16 & 0o111)
        with self.archive.open(member) as file:
            found = self.write(target, file, executable=executable, algorithm=algorithm)
        if found != expected.rstrip("="):
            raise Failure(f"the file {str(path)!r} has the {algorithm} {found}; expected {expected}, as RECORD says.")
        if is_script:
            self.name_interpreter(target)

    def write(self, target: Path, source: IO[bytes], *, executable: bool, algorithm: str = "sha256") -> str:
        """Write a file, and note it for the RECORD that is installed; its hash."""
        found = base64.urlsafe_b64encode(self.venv.write(target, source, executable, algorithm)).decode().rstrip("=")
        self.record[os.path.relpath(target, self.venv.packages)] = f"{algorithm}={found}", target.stat().st_size
        return found

    def name_interpreter(self, script: Path) -> None:
        """Let a script that begins with `#!python`, whichever that is, begin with the virtualenv's."""
        with script.open("rb") as file:
            if file.read(8) == b"#!python":
                file.readline()
                text = io.BytesIO(f"#!{self.python}\n".encode() + file.read())
                self.write(script, text, executable=True)

    def entry_points(self) -> Iterator[tuple[str, str, str]]:
        """The scripts that are to be made: name, module, function."""
        parser = configparser.ConfigParser(delimiters="=", interpolation=None)
        parser.optionxform = str  # type: ignore[assignment,method-assign]
        if f"{self.info}/entry_points.txt" in self.archive.namelist():
            parser.read_string(self.read("entry_points.txt"))
        for section in {"console_scripts", "gui_scripts"} & set(parser.sections()):
            for name, text in parser.items(section):
                found = ENTRY_POINT.fullmatch(text)
                if not found or inside(name).name != name:
                    raise Failure(f"its entry point {name!r} is {text!r}; expected a file name, and module:function.")
                yield name, found[1], found[2]

    def write_record(self) -> None:
        """Write what was installed where, for importlib.metadata."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(
            [*((path, *found) for path, found in self.record.items()), (f"{self.info}/RECORD", "", "")]
        )
        self.write(self.venv.packages / self.info / "RECORD", io.BytesIO(text.getvalue().encode()), executable=False)
