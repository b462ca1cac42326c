"""Complete generations, releases and environments on a host, as small as they can be; and what may damage a file."""

import json
import os
from pathlib import Path
from typing import Any


def add_environment(root: Path, name: str) -> Path:
    """Write an environment in which nothing is."""
    place = root / "environments" / name
    place.mkdir(parents=True, exist_ok=True)
    (place / "environment.json").write_text(json.dumps({"environment": name}))
    return place


def add_release(root: Path, name: str, environment: str = "e1", **more: Any) -> Path:
    """Write a release in which nothing is, and its environment."""
    add_environment(root, environment)
    place = root / "releases" / name
    place.mkdir(parents=True, exist_ok=True)
    manifest = {"release": name, "digest": "", "environment": environment, **more}
    (place / "release.json").write_text(json.dumps(manifest))
    return place


def add_generation(root: Path, name: str, release: str, **more: Any) -> Path:
    """Write a generation of one port, and its release if it is not there."""
    if not (root / "releases" / release).exists():
        add_release(root, release)
    place = root / "generations" / name
    place.mkdir(parents=True)
    (place / "settings.json").write_text("{}")
    (place / "supervisor.conf").write_text(f"[program:{name}]\n")
    (place / "release").symlink_to(root / "releases" / release)
    manifest = {"generation": name, "release": release, "ports": [8000], **more}
    (place / "generation.json").write_text(json.dumps(manifest))
    return place


def record(number: int) -> dict[str, Any]:
    """Return a line of the journal."""
    texts = dict.fromkeys(("owner", "verb", "wanted", "release", "outcome", "message"), "x")
    rest = dict.fromkeys(("ended", "seconds", "from", "from_release", "to", "to_release"))
    return {"id": f"run-{number}", "started": number, **texts, **rest}


def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def cut(path: Path) -> None:
    """Leave the first half of a file, as of one that was being written."""
    os.truncate(path, path.stat().st_size // 2)


def garble(path: Path) -> None:
    """Put other bytes there, as many: a file of zeros is what some file systems have after a power cut."""
    path.write_bytes(b"\xff\0" * (path.stat().st_size // 2) + b"\0" * (path.stat().st_size % 2))


def hide(path: Path) -> None:
    """Let nobody read it; root may read everything, and no directory."""
    path.unlink()
    path.mkdir()
    (path / "something").touch()
