"""Remove what nobody goes back to: old generations with their settings and logs, their releases, and what only these needed.

The generation that is current, the one that was before it unless it is damaged, and every one that supervisord knows always
stay. A static file goes when no release that stays names it (the store's file is a link to the release's, so one with no other
link is named by none), an environment when no release that stays names it.
"""

from __future__ import annotations

from pathlib import Path

from ansible_collections.eyewall.tornado.plugins.module_utils.layout import (
    ENVIRONMENT,
    GENERATION,
    RELEASE,
    Damaged,
    Layout,
    is_directory,
    remove,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.root import alone, known_groups, withdraw


def old_generations(root: Path, keep: int) -> list[Path]:
    """The generations that may go, by when they were last current."""
    layout = Layout(root)
    complete = sorted(layout.complete(GENERATION), key=layout.date)
    current = layout.current_generation()
    # a damaged one is not there, so nobody can go back to it
    staying = {*complete[-max(keep, 2) :], *known_groups(), current}
    if current in complete and (before := layout.manifest(GENERATION, current).get("before")) in complete:
        staying.add(before)
    going = {*layout.names(GENERATION)} - staying
    return [layout.place(GENERATION, name) for name in sorted(going, key=lambda name: (layout.date(name), name))]


def unused_releases(root: Path, going: list[Path]) -> list[Path]:
    """The releases that no generation needs which stays."""
    layout = Layout(root)
    needed = {layout.release_of(name) for name in {*layout.names(GENERATION)} - {place.name for place in going}}
    if None in needed:  # of a damaged one that is in use
        return []
    return [layout.place(RELEASE, name) for name in layout.names(RELEASE) if name not in needed]


def unused_environments(root: Path, going: list[Path]) -> list[Path]:
    """The environments that no release names which stays, and damaged ones: the next release makes one again."""
    layout, needed = Layout(root), set()
    for name in {*layout.names(RELEASE)} - {place.name for place in going}:
        try:
            needed.add(layout.manifest(RELEASE, name)["environment"])
        except Damaged:
            continue  # a release has links to all that it needs: it is the next one that needs the environment
    needed.intersection_update(layout.complete(ENVIRONMENT))
    return [layout.place(ENVIRONMENT, name) for name in layout.names(ENVIRONMENT) if name not in needed]


def prune(root: Path, logs: Path, keep: int) -> list[str]:
    """Keep so many generations, at least 2, and remove what else may go; return the directories that went.

    Raises Failure where another run does not let go of the host.
    """
    with alone(root):
        going = old_generations(root, keep)
        # A whole release that was staged for a generation yet to come has none either: only what went with one goes.
        named = {Layout(root).release_of(place.name) for place in going}
        unused = unused_releases(root, going)
        releases = [one for one in unused if one.name in named or not Layout(root).is_complete(RELEASE, one.name)]
        # generations last: they say which releases may go, also to the run after an interrupted one
        directories = [*releases, *unused_environments(root, releases), *Layout(root).abandoned(), *going]
        remove_all(going, directories, logs)
        if directories:
            withdraw(root / "static")
    return [str(place) for place in directories]


def remove_all(generations: list[Path], directories: list[Path], logs: Path) -> None:
    """Remove directories, and the logs of those that are generations."""
    for place in generations:
        for log in logs.glob(f"{place.name}-*.log*"):
            log.unlink()
    for place in directories:
        # without its manifest, what an interruption leaves of it is unfinished
        if is_directory(place):
            for kind in (RELEASE, ENVIRONMENT):
                remove(place / kind.manifest)
        remove(place)
