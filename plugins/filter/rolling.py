"""In which order hosts change, and what they go back to."""

from collections.abc import Mapping
from typing import Any


def batches(hosts: list[str], sizes: list[str | int]) -> list[list[str]]:
    """`hosts` in batches of `sizes`, numbers or shares of all hosts as in "25%"; the last size is used again.

    The sizes are those of Ansible's `serial`, a share is one host at least.
    """
    rest, found = list(hosts), []
    wanted = [str(size) for size in sizes]
    while rest:
        size = wanted.pop(0) if len(wanted) > 1 else wanted[0]
        number = len(hosts) * int(size[:-1]) // 100 if size.endswith("%") else int(size)
        found.append(rest[: max(number, 1)])
        rest = rest[max(number, 1) :]
    return found


def listing(hosts: list[str], hostvars: Mapping[str, Any]) -> str:
    """The releases that hosts keep, a line for each host."""
    lines = []
    for host in hosts:
        kept = hostvars[host]["tornado_app_info"]["generations"]
        marks = [f"{entry['release']}{' (current)' if entry['current'] else ''}" for entry in kept]
        lines.append(f"  {host}: {', '.join(marks) or 'none'}")
    return "\n".join(lines)


def goal_of(info: Mapping[str, Any], version: str, unfinished: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The generation that a host goes back to; None where it has no such one."""
    kept: list[Mapping[str, Any]] = info["generations"]
    if version:
        return next((entry for entry in kept if entry["release"] == version), None)
    if unfinished:
        wanted = (info["lock"] or unfinished)["wanted"]
        named = next((entry for entry in kept if entry["name"] == wanted), None)
        return named or next((entry for entry in kept if entry["release"] == unfinished["release"]), None)
    return next((entry for entry in kept if entry["before"]), None)


def rollback_goal(hosts: list[str], hostvars: Mapping[str, Any], version: str) -> dict[str, Any]:
    """What each host goes back to (`goals`, by host), or why there is no such thing (`refusal`, else "").

    `version` names a release, "" is the one before the current one. Every host has to have it, and the same one. A
    rollback whose controller was killed has left its lock, which says where it went: hosts that are there already
    would go one further.
    """
    infos = {host: hostvars[host]["tornado_app_info"] for host in hosts}
    locks = [info["lock"] for info in infos.values() if info["lock"]]
    unfinished = next((lock for lock in locks if lock["verb"] == "rollback"), None)
    goals = {host: goal_of(info, version, unfinished) for host, info in infos.items()}
    lacking = [host for host, goal in goals.items() if goal is None]
    releases = {goal["release"] for goal in goals.values() if goal}
    refusal = ""
    if lacking and version:
        refusal = f"tornado_app_version is '{version}', which is not on {', '.join(lacking)}"
    elif lacking:
        refusal = f"There is nothing to go back to on {', '.join(lacking)}: no release was there before the current one"
    elif len(releases) > 1:
        refusal = "The hosts would go back to different releases"
    if refusal:
        refusal += ". Expected is a release that every host keeps, as in -e tornado_app_version=RELEASE:\n"
        refusal += listing(hosts, hostvars)
    return {"goals": goals, "refusal": refusal}


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"batches": batches, "rollback_goal": rollback_goal}
