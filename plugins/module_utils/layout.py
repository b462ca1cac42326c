"""Files of the application on a host: where they are, how they get onto the disk, and which of them are damaged.

A release, an environment or a generation is complete if its manifest says so, and if what the manifest vouches for is there.
Until a file system was synced, it may lose what was written half a minute ago, and keep the name of it: ext4 then has a file of
0 bytes. So whatever a manifest vouches for is on the disk before the manifest (or the directory that holds it) has its name,
and the manifest is before C(current) names it. What is damaged all the same is not there, and is made again.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure, program

EXCHANGE = 2  # of renameat2(2)
AT_FDCWD = -100
SETTINGS = "settings.json"  # of a generation


class Damaged(Failure):
    """A file that is not as it was written, in a sentence: the path, what was found, what was expected."""


class Kind(NamedTuple):
    """What has a manifest: the directory of all of a kind, the manifest's name, and what has to be in it."""

    directory: str
    manifest: str
    keys: dict[str, type]


RELEASE = Kind("releases", "release.json", {"release": str, "digest": str, "environment": str})
ENVIRONMENT = Kind("environments", "environment.json", {"environment": str})
GENERATION = Kind("generations", "generation.json", {"generation": str, "release": str, "ports": list})
LOCK = {
    **dict.fromkeys(("id", "owner", "controller", "verb", "wanted", "release"), str),
    **dict.fromkeys(("pid", "pid_started", "started", "expires"), int),
    **dict.fromkeys(("from", "from_release"), object),
}
RECORD = {
    **dict.fromkeys(("id", "owner", "verb", "wanted", "release", "outcome", "message"), str),
    "started": int,
    **dict.fromkeys(("ended", "seconds", "from", "from_release", "to", "to_release"), object),
}


# ---- Onto the disk ----


def sync(place: Path) -> None:
    """Write everything of the file system of `place` to its disk: one call, however many files there are (syncfs(2)).

    Raises OSError for what could not be written.
    """
    libc, directory = ctypes.CDLL(None, use_errno=True), os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if libc.syncfs(directory):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(place))
    finally:
        os.close(directory)


def sync_directory(place: Path) -> None:
    """Write the names in a directory to the disk (fsync(2))."""
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def is_directory(path: Path) -> bool:
    """Whether something is a directory, and not a link to one."""
    return path.is_dir() and not path.is_symlink()


def remove(path: Path) -> None:
    """Remove whatever has a name."""
    if is_directory(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def write(path: Path, text: str, *, mode: int = 0o644, group: int = -1, date: float | None = None) -> None:
    """Replace a file in one step; once this returns, it is on the disk. The arguments are those of `prepare`."""
    put(prepare(path, text, mode=mode, group=group, date=date), path)


def prepare(path: Path, text: str, *, mode: int = 0o644, group: int = -1, date: float | None = None) -> Path:
    """Write the text that a file is to have beside it, to the disk; where it is (`PATH.part`), for `put`.

    It has this mode, whatever the umask is, this group (-1 is that of the process), and this date (Unix time, None is now).
    """
    new = path.with_name(f"{path.name}.part")
    remove(new)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    with os.fdopen(os.open(new, flags, 0o600), "w", encoding="utf-8") as file:
        os.fchown(file.fileno(), -1, group)
        os.fchmod(file.fileno(), mode)
        file.write(text)
        file.flush()
        if date is not None:
            os.utime(file.fileno(), (date, date))
        os.fsync(file.fileno())
    return new


def link(path: Path, target: Path) -> None:
    """Let a symbolic link lead somewhere, in one step; once this returns, it is on the disk."""
    new = path.with_name(f"{path.name}.part")
    remove(new)
    new.symlink_to(target)
    put(new, path)


def put(new: Path, path: Path) -> None:
    """Give what is finished its name, in one step (rename(2)), and put the name onto the disk.

    A directory cannot be renamed over another one. The two change places, and the other one is removed; where the file system
    cannot do that, nothing has the name for a moment.
    """
    if not os.path.lexists(path) or not (is_directory(new) or is_directory(path)):
        new.rename(path)
    else:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(path), EXCHANGE):
            if ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
            aside = path.with_name(f".{path.name}.aside")
            remove(aside)
            path.rename(aside)
            new.rename(path)
            new = aside
        remove(new)
    sync_directory(path.parent)


# ---- Back from the disk ----


def content(path: Path) -> bytes:
    """What a file holds. Raises Damaged where it cannot be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise Damaged(f"{path}: got no file; expected what was written there.") from None
    except OSError as error:
        raise Damaged(f"{path}: got '{error.strerror}'; expected a file that can be read.") from None


def parsed(name: str, text: bytes, keys: Mapping[str, type]) -> dict[str, Any]:
    """A JSON object that has keys of these types. Raises Damaged for anything else; it never repeats what it has read."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        got = f"{len(text)} bytes that are not JSON" if text else "an empty file"
    else:
        if not isinstance(found, dict):
            got = "JSON that is not an object"
        elif lacking := [key for key, kind in keys.items() if not isinstance(found.get(key), kind) or key not in found]:
            got = f"JSON without {', '.join(lacking)}"
        else:
            return found
    raise Damaged(f"{name}: got {got}; expected the JSON that was written there.")


def read(path: Path, keys: Mapping[str, type]) -> dict[str, Any]:
    """A JSON file of ours. Raises Damaged where it is not whole."""
    return parsed(str(path), content(path), keys)


def sizes(place: Path, name: str) -> dict[str, int]:
    """Sizes of all files and links below a directory, by their path; they are called as if the directory were `name`."""
    found: dict[str, int] = {}
    with os.scandir(place) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                found |= sizes(Path(entry), f"{name}/{entry.name}")
            else:
                found[f"{name}/{entry.name}"] = entry.stat(follow_symlinks=False).st_size
    return found


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class Layout:
    """The application's directory on a host."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.current = root / "current"
        self.static = root / "static"
        self.lock = root / "deploy.json"
        self.journal = root / "deploys.jsonl"
        self._releases: dict[str, str | None] = {}  # what was found of each: generations share them

    def place(self, kind: Kind, name: str) -> Path:
        return self.root / kind.directory / name

    def unfinished(self, kind: Kind, name: str) -> Path:
        """Where it is made, until it is complete."""
        return self.root / kind.directory / f".{name}"

    def names(self, kind: Kind) -> list[str]:
        """What has a directory, complete or damaged."""
        return sorted(path.name for path in (self.root / kind.directory).glob("*") if path.name[0] != ".")

    def abandoned(self) -> list[Path]:
        """What was being made when a run was interrupted; only for who holds the lock (tornado_app_root.alone)."""
        return sorted(path for kind in (RELEASE, ENVIRONMENT) for path in (self.root / kind.directory).glob(".*"))

    def manifest(self, kind: Kind, name: str) -> dict[str, Any]:
        """What a manifest says. Raises Damaged where it is not whole."""
        return read(self.place(kind, name) / kind.manifest, kind.keys)

    def write_manifest(self, kind: Kind, name: str, content: Mapping[str, Any], *, date: float | None = None) -> None:
        """Say that something is complete. The file is root's alone: hashes of secrets are for nobody."""
        write(self.place(kind, name) / kind.manifest, json.dumps(content), mode=0o600, date=date)

    def date(self, generation: str) -> float:
        """When a generation became current, 0 for never (Unix time): the date of its manifest."""
        try:
            return (self.place(GENERATION, generation) / GENERATION.manifest).stat().st_mtime
        except OSError:
            return 0

    def next_date(self, generation: str) -> float:
        """The date of a generation that becomes current: now, or where the clock was set back, later than that of any other.

        Old generations are removed by their dates.
        """
        others = [self.date(name) for name in self.names(GENERATION) if name != generation]
        return max([time.time(), *(date + 1 for date in others)])

    def current_generation(self) -> str | None:
        """The generation that starts at boot, whole or damaged; None for none."""
        return self.current.readlink().name if self.current.is_symlink() else None

    def current_ports(self) -> list[int]:
        """The ports of the current generation; none where there is no such one, or its manifest is damaged."""
        name = self.current_generation()
        if name is None:
            return []
        try:
            ports: list[int] = self.manifest(GENERATION, name)["ports"]
        except Damaged:
            return []
        return ports

    def release_of(self, generation: str) -> str | None:
        """The release of a generation, also of a damaged one as long as one of its two places says so."""
        try:
            return str(self.manifest(GENERATION, generation)["release"])
        except Damaged:
            place = self.place(GENERATION, generation) / "release"
            return place.readlink().name if place.is_symlink() else None

    # Damage

    def absence(self, generation: str) -> str:
        """That a generation is not on this host, in a sentence, and if it is damaged what is."""
        told = f"The generation {generation} is not on this host."
        damaged = os.path.lexists(self.place(GENERATION, generation))
        return f"{told} {self.damage(GENERATION, generation)}" if damaged else told

    def damage(self, kind: Kind, name: str) -> str | None:
        """Why something is not there though it has a directory, in a sentence; None if it is complete."""
        if kind is RELEASE and name in self._releases:
            return self._releases[name]
        damage = None
        try:
            self.check(kind, name)
        except Damaged as damaged:
            damage = str(damaged)
        if kind is RELEASE:
            self._releases[name] = damage
        return damage

    def is_complete(self, kind: Kind, name: str) -> bool:
        return self.damage(kind, name) is None

    def complete(self, kind: Kind) -> list[str]:
        """Names of what is on the host, and whole."""
        return [name for name in self.names(kind) if self.is_complete(kind, name)]

    def check(self, kind: Kind, name: str) -> None:
        """Look at everything that a manifest vouches for, and for a generation at its release's. Raises Damaged."""
        manifest = self.manifest(kind, name)
        if kind is GENERATION:
            self.check_generation(self.place(kind, name), manifest)
        # manifests of before they vouched for files have none
        wrong = [(path, size, found) for path, size, found in self.found(manifest.get("sizes", {})) if found != size]
        if wrong:
            path, size, found = wrong[0]
            more = f" {len(wrong) - 1} more of this {kind.manifest.partition('.')[0]} are damaged." if wrong[1:] else ""
            raise Damaged(
                f"{self.root / path}: got {'no file' if found is None else f'{found} bytes'}; expected {size} bytes.{more}"
            )

    def found(self, expected: Mapping[str, int]) -> Iterator[tuple[str, int, int | None]]:
        """Path, expected size, and size as it is, None for no file. Sizes, for a hash of all would be read from the disk."""
        for path, size in expected.items():
            try:
                yield path, size, os.lstat(f"{self.root}/{path}").st_size
            except OSError:
                yield path, size, None

    def check_generation(self, place: Path, manifest: dict[str, Any]) -> None:
        read(place / SETTINGS, {})
        for name, expected in manifest.get("hashes", {}).items():
            data = content(place / name)
            if digest(data) != expected:
                got = f"{len(data)} bytes with another hash" if data else "an empty file"
                raise Damaged(f"{place / name}: got {got}; expected what was written there (SHA-256 {expected[:12]}…).")
        release = self.place(RELEASE, manifest["release"])
        if not ((link := place / "release").is_symlink() and link.readlink() == release):
            raise Damaged(f"{link}: got no link to {release}; expected one.")
        if damage := self.damage(RELEASE, manifest["release"]):
            raise Damaged(damage)

    def boot_damage(self) -> str | None:
        """Why a boot would not start the current generation, in a sentence; None if it would, or if there never was one."""
        name = self.current_generation()
        if name is None:
            dated = [one for one in self.names(GENERATION) if self.date(one)]
            return f"{self.current}: got no link; expected one to the current generation." if dated else None
        if damage := self.damage(GENERATION, name):
            return damage
        wanted, conf = self.place(GENERATION, name) / "supervisor.conf", program(name)
        if not (conf.is_symlink() and conf.readlink() == wanted):
            return f"{conf}: got no link to {wanted}; expected one."
        return None

    def all_damage(self) -> list[str]:
        """Every damaged file, a sentence each: what a deploy makes again, or removes where nobody needs it."""
        found = [self.boot_damage()]
        found += [self.damage(kind, name) for kind in (RELEASE, ENVIRONMENT, GENERATION) for name in self.names(kind)]
        try:
            self.held()
        except Damaged as damage:
            found.append(str(damage))
        found += self.read_journal()[1]
        return list(dict.fromkeys(sentence for sentence in found if sentence))

    # The lock of a deploy, and the journal

    def held(self) -> dict[str, Any] | None:
        """The lock of a deploy, None for none. Raises Damaged where it is not whole."""
        return read(self.lock, LOCK) if os.path.lexists(self.lock) else None

    def records(self) -> list[dict[str, Any]]:
        """The lines of the journal that are whole, the last one last."""
        return self.read_journal()[0]

    def read_journal(self) -> tuple[list[dict[str, Any]], list[str]]:
        """The lines of the journal that are whole, and a sentence for each other one."""
        if not os.path.lexists(self.journal):
            return [], []
        try:
            lines = content(self.journal).splitlines()
        except Damaged as damage:
            return [], [str(damage)]
        whole: list[dict[str, Any]] = []
        damaged: list[str] = []
        for number, line in enumerate(lines, 1):
            try:
                whole.append(parsed(f"{self.journal}, line {number}", line, RECORD))
            except Damaged as damage:
                damaged.append(str(damage))
        return whole, damaged
