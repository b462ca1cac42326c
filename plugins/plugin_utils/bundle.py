"""Tar files for hosts, and by what they are named: their content, and nothing of where or when they were made."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from ansible_collections.eyewall.tornado.plugins.plugin_utils.builder import Wheel
from ansible_collections.eyewall.tornado.plugins.plugin_utils.static_files import published, static_files

# Part of every digest: raise it when the form of a bundle changes.
BUNDLE_FORM = "4"


def digest(*texts: str) -> str:
    """SHA-256 over texts."""
    return hashlib.sha256("".join(f"{text}\0" for text in texts).encode()).hexdigest()


@dataclass(frozen=True)
class Release:
    """What every host gets of a release, whatever its Python and its architecture."""

    name: str  # of the application
    digest: str
    entry: str
    static: str
    application: Wheel
    runner: Wheel

    def files(self) -> dict[str, bytes]:
        """What its bundle holds. Raises Refusal for static files that are none."""
        manifest = {"name": self.name, "digest": self.digest, "entry": self.entry}
        held = {"manifest.json": json.dumps(manifest).encode()}
        held |= {f"wheels/{wheel.path.name}": wheel.path.read_bytes() for wheel in (self.application, self.runner)}
        return held | (published(static_files(self.application.path, self.static)) if self.static else {})


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
