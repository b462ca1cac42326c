"""Ansible module: remove what nobody goes back to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: tornado_app_prune
short_description: Remove old generations with their settings and logs, their releases, and static files nobody names
description:
  - The generation that is current, the one that was before, and every one that supervisord knows always stay.
  - A static file goes when no release that stays names it. The store's file is a link to the release's, so one with no other
    link is named by none.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  logs: {type: path, required: true, description: The directory of its logs.}
  keep: {type: int, required: true, description: "How many generations stay, at least 2."}
"""

PROGRAMS = Path("/etc/supervisor/conf.d")


def old_generations(root: Path, keep: int) -> list[Path]:
    """The generations that may go, by when they were last current."""
    manifests = sorted((root / "generations").glob("*/generation.json"), key=lambda path: path.stat().st_mtime)
    finished = [manifest.parent for manifest in manifests]
    in_use = {path.stem for path in PROGRAMS.glob("*.conf")} | {(root / "current").resolve().name}
    return [place for place in finished[: -max(keep, 2)] if place.name not in in_use]


def unused_releases(root: Path, going: list[Path]) -> list[Path]:
    """The releases that no generation needs which stays."""
    staying = set((root / "generations").glob("*/generation.json")) - {place / "generation.json" for place in going}
    needed = {json.loads(manifest.read_text())["release"] for manifest in staying}
    return [place for place in sorted((root / "releases").glob("*/")) if place.name not in needed]


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "logs": {"type": "path", "required": True},
            "keep": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    going = old_generations(root, module.params["keep"])
    # A release that was staged for a generation yet to come has none either: only what went with one goes.
    named = {json.loads((place / "generation.json").read_text())["release"] for place in going}
    releases = [place for place in unused_releases(root, going) if place.name in named]
    removed = [str(place) for place in [*going, *releases]]
    if not module.check_mode:
        for place in going:
            for log in Path(module.params["logs"]).glob(f"{place.name}-*.log*"):
                log.unlink()
        for place in [*going, *releases]:
            shutil.rmtree(place)
        if releases:
            for file in [path for path in (root / "static").rglob("*") if path.is_file() and path.stat().st_nlink == 1]:
                file.unlink()
            for directory in sorted((root / "static").rglob("*/"), reverse=True):
                if not any(directory.iterdir()):
                    directory.rmdir()
    before = "".join(f"{place}\n" for place in removed)
    module.exit_json(changed=bool(removed), removed=removed, diff={"before": before, "after": ""})


if __name__ == "__main__":
    main()
