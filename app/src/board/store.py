"""The uploaded files: one directory, shared by all processes of a host, with no index but itself."""

import hashlib
import os
import re
import tempfile
import threading
import time
import unicodedata
from dataclasses import dataclass
from pathlib import Path

KEEP = 20
MAX_NAME = 120
_PART = ".part"
# A part that nobody has written to for this long belongs to a process that was killed.
_STALE_SECONDS = 3600.0
_NOT_IN_NAMES = re.compile(r"[^\w.()+@ -]")


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A finished upload."""

    name: str
    size: int
    modified: float


def safe_name(name: str) -> str:
    """Return what is left of a client's file name: no path, nothing hidden, nothing that needs quoting.

    A name that has been through here comes out the same, so the same function tells whether a name can exist.
    """
    name = unicodedata.normalize("NFC", name.replace("\\", "/")).rpartition("/")[2]
    name = _NOT_IN_NAMES.sub("_", name).strip(". ")
    if len(name.encode()) > MAX_NAME:
        stem, dot, suffix = name.rpartition(".")
        if not dot or len(suffix.encode()) > MAX_NAME // 4:
            stem, dot, suffix = name, "", ""
        room = MAX_NAME - len((dot + suffix).encode())
        name = stem.encode()[:room].decode(errors="ignore").rstrip(". ") + dot + suffix
    return name or "upload"


class Store:
    """The directory of uploads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def files(self) -> list[StoredFile]:
        """Return the finished uploads, newest first."""
        found = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                if entry.name.startswith(".") or not entry.is_file(follow_symlinks=False):
                    continue
                try:
                    stat = entry.stat(follow_symlinks=False)
                except FileNotFoundError:  # another process has pruned it
                    continue
                found.append((stat.st_mtime_ns, StoredFile(entry.name, stat.st_size, stat.st_mtime)))
        found.sort(key=lambda pair: (pair[0], pair[1].name), reverse=True)
        return [file for _, file in found]

    def prune(self) -> None:
        """Keep the newest uploads only, and no part that a killed process has left behind."""
        for file in self.files()[KEEP:]:
            (self.directory / file.name).unlink(missing_ok=True)
        for part in self.directory.glob(f".*{_PART}"):
            try:
                if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                    part.unlink()
            except FileNotFoundError:
                continue


class Upload:
    """One file on its way in, under a name that nobody is served, until it is complete.

    Its methods block, so they are called in threads. `discard` may come at any time, even while another
    thread writes: the connection can be lost, or time out, at any moment.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._sha256 = hashlib.sha256()
        handle, path = tempfile.mkstemp(prefix=".", suffix=_PART, dir=store.directory)
        self._file = os.fdopen(handle, "wb", buffering=0)
        self._path = Path(path)
        self.name = safe_name(name)
        self.size = 0

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    def write(self, data: bytes | bytearray) -> None:
        with self._lock:
            if self._file.closed:
                return
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
            self._sha256.update(data)
            self.size += len(data)

    def commit(self) -> None:
        """Give the file its name, in one step, replacing an older one of that name."""
        with self._lock:
            if self._file.closed:
                raise FileNotFoundError(f"the upload of {self.name!r} was discarded")
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.replace(self._store.directory / self.name)
        self._store.prune()

    def discard(self) -> None:
        """Leave no trace. After a commit, or a second time, do nothing."""
        with self._lock:
            if not self._file.closed:
                self._file.close()
                self._path.unlink(missing_ok=True)
