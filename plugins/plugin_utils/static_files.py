"""Static files: taken from the application's wheel, and compressed once, here, for every host."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path, PurePosixPath

import brotli
from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import Refusal

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
            f"tornado_app_static: got '{static}', below which {application.name} has no file; expected a directory inside "
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
