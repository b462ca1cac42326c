"""Remove what nobody goes back to: old generations with their settings and logs, their releases, and what only these needed.

The generation that is current, the one that was before it, and every one that supervisord knows always stay. A static file
goes when no release that stays names it (the store's file is a link to the release's, so one with no other link is named
by none), an environment when no release that stays names it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ansible.module_utils.tornado_app_root import alone, known_groups, withdraw


def old_generations(root: Path, keep: int) -> list[Path]:
    """The generations that may go, by when they were last current."""
    manifests = sorted((root / "generations").glob("*/generation.json"), key=lambda path: path.stat().st_mtime)
    finished = [manifest.parent for manifest in manifests]
    current = (root / "current").resolve()
    in_use = known_groups() | {current.name}
    if (manifest := current / "generation.json").exists():
        in_use.add(json.loads(manifest.read_text()).get("before"))
    return [place for place in finished[: -max(keep, 2)] if place.name not in in_use]


def unused_releases(root: Path, going: list[Path]) -> list[Path]:
    """The releases that no generation needs which stays."""
    staying = set((root / "generations").glob("*/generation.json")) - {place / "generation.json" for place in going}
    needed = {json.loads(manifest.read_text())["release"] for manifest in staying}
    return [place for place in sorted((root / "releases").glob("*/")) if place.name not in needed]


def unused_environments(root: Path, going: list[Path]) -> list[Path]:
    """The environments that no release names which stays, and unfinished ones."""
    staying = set((root / "releases").glob("*/release.json")) - {place / "release.json" for place in going}
    needed = {json.loads(manifest.read_text()).get("environment") for manifest in staying}
    return [place for place in sorted((root / "environments").glob("*/")) if place.name not in needed]


def prune(root: Path, logs: Path, keep: int) -> list[str]:
    """Keep so many generations, at least 2, and remove what else may go; return the directories that went.

    Raises Failure where another run does not let go of the host.
    """
    with alone(root):
        going = old_generations(root, keep)
        # A release that was staged for a generation yet to come has none either: only what went with one goes.
        named = {json.loads((place / "generation.json").read_text())["release"] for place in going}
        releases = [place for place in unused_releases(root, going) if place.name in named]
        # generations last: they say which releases may go, also to the run after an interrupted one
        directories = [*releases, *unused_environments(root, releases), *going]
        remove(going, directories, logs)
        if releases:
            withdraw(root / "static")
    return [str(place) for place in directories]


def remove(generations: list[Path], directories: list[Path], logs: Path) -> None:
    """Remove directories, and the logs of those that are generations."""
    for place in generations:
        for log in logs.glob(f"{place.name}-*.log*"):
            log.unlink()
    for place in directories:
        # without its manifest, what an interruption leaves of it is unfinished
        for manifest in ("release.json", "environment.json"):
            (place / manifest).unlink(missing_ok=True)
        shutil.rmtree(place)
