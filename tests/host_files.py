"""Complete generations, releases and environments on a host, as small as they can be."""

import json
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
