"""Ansible module: remove what nobody goes back to."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tornado_app_root import Failure, alone, withdraw

DOCUMENTATION = r"""
module: tornado_app_prune
short_description: Remove old generations with their settings and logs, their releases, and what only these needed
description:
  - The generation that is current, the one that was before it, and every one that supervisord knows always stay.
  - A static file goes when no release that stays names it. The store's file is a link to the release's, so one with no other
    link is named by none.
  - An environment goes when no release that stays names it.
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
    current = (root / "current").resolve()
    in_use = {path.stem for path in PROGRAMS.glob("*.conf")} | {current.name}
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


def prune(root: Path, logs: Path, keep: int, *, only_say: bool) -> list[str]:
    """Remove what may go, or say it only; the directories that go."""
    going = old_generations(root, keep)
    # A release that was staged for a generation yet to come has none either: only what went with one goes.
    named = {json.loads((place / "generation.json").read_text())["release"] for place in going}
    releases = [place for place in unused_releases(root, going) if place.name in named]
    # generations last: they say which releases may go, also to the run after an interrupted one
    directories = [*releases, *unused_environments(root, releases), *going]
    if not only_say:
        for place in going:
            for log in logs.glob(f"{place.name}-*.log*"):
                log.unlink()
        for place in directories:
            # without its manifest, what an interruption leaves of it is unfinished
            for manifest in ("release.json", "environment.json"):
                (place / manifest).unlink(missing_ok=True)
            shutil.rmtree(place)
        if releases:
            withdraw(root / "static")
    return [str(place) for place in directories]


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
    try:
        with nullcontext() if module.check_mode else alone(root):
            removed = prune(root, Path(module.params["logs"]), module.params["keep"], only_say=module.check_mode)
    except Failure as failure:
        module.fail_json(msg=str(failure))
    before = "".join(f"{place}\n" for place in removed)
    module.exit_json(changed=bool(removed), removed=removed, diff={"before": before, "after": ""})


if __name__ == "__main__":
    main()
