"""Ansible module: what runs of the application, what else is there, and what was deployed."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tornado_app_admin import ask
from ansible.module_utils.tornado_app_groups import Supervisord, has_supervisor, watch
from ansible.module_utils.tornado_app_layout import GENERATION, Damaged, Layout
from ansible.module_utils.tornado_app_root import Failure

DOCUMENTATION = r"""
module: tornado_app_info
short_description: What runs of the application, what else is there, and what was deployed
description:
  - C(processes) is what every process says of itself on its admin socket. One of the current generation that does not answer is
    listed with the state C(silent). One of another generation, as in the middle of a handover, is listed if it answers.
  - C(generations) is what the host keeps, the one that was current last first; C(last_current) is when that began (Unix time,
    null for never), and the one that is C(before) is what a rollback leads to.
  - C(strangers) are processes of the account that supervisord neither knows nor whose ancestor it knows, and what else listens
    on the application's ports; null where supervisord does not answer.
  - C(damaged) are the files of the layout that are not as they were written, a sentence each. What they belong to is not there:
    it is no longer among C(generations), unless it is the current one, and the same deploy makes it again.
  - C(deploys) are the last of C(deploys.jsonl), C(lock) is C(deploy.json), null where nobody deploys (M(tornado_app_deploy)).
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  sockets: {type: path, required: true, description: Directory of the admin sockets.}
  user: {type: str, required: true, description: The account of the application.}
  survivors: {type: list, elements: str, default: [], description: "Patterns of commands that may run as the account."}
"""

DEPLOYS = 5  # that are shown


def generations(layout: Layout, sockets: Path) -> list[dict[str, Any]]:
    """Every generation that is complete, by when it became current, the last one first; the current one, damaged or not."""
    current, before = layout.current_generation(), None
    found = {}
    for name in {*layout.complete(GENERATION), *([current] if current else [])}:
        try:
            manifest = layout.manifest(GENERATION, name)
        except Damaged:  # its processes may run on, and have their sockets
            paths = [re.fullmatch(rf"{re.escape(name)}-(\d+)\.sock", path.name) for path in sockets.glob("*.sock")]
            ports = sorted(int(path[1]) for path in paths if path)
            manifest = {"release": layout.release_of(name) or "unknown", "ports": ports}
        if name == current:
            before = manifest.get("before")
        found[name] = {
            "name": name,
            "release": manifest["release"],
            "ports": manifest["ports"],
            "current": name == current,
            "last_current": int(layout.date(name)) or None,
        }
    for name, one in found.items():
        one["before"] = name == before
    return sorted(found.values(), key=lambda one: one["last_current"] or 0, reverse=True)


def processes(known: list[dict[str, Any]], sockets: Path) -> list[dict[str, Any]]:
    """What every process answers, by port; two of a port in the middle of a handover."""
    asked = [(generation, port) for generation in known for port in generation["ports"]]
    places = [str(sockets / f"{generation['name']}-{port}.sock") for generation, port in asked]
    # side by side: one that does not answer takes its time, and there may be many
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, places, ["/status"] * len(places)))
    found = []
    for (generation, port), answer in zip(asked, answers, strict=True):
        if answer and (answer["generation"], answer["port"]) == (generation["name"], port):
            found.append(answer)
        elif generation["current"]:
            found.append(
                {"state": "silent", "port": port, "release": generation["release"], "generation": generation["name"]}
            )
    return sorted(found, key=lambda one: one["port"])


def strangers(known: list[dict[str, Any]], user: str, survivors: list[str]) -> list[dict[str, Any]] | None:
    if not known or not has_supervisor():
        return []
    ports = {port for generation in known for port in generation["ports"]}
    try:
        return [one.result() for one in watch(Supervisord(), user, ports, survivors).strangers()]
    except Failure:
        return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "sockets": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "survivors": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    layout, sockets = Layout(Path(module.params["root"])), Path(module.params["sockets"])
    known = generations(layout, sockets)
    try:
        lock = layout.held()
    except Damaged:  # which `damaged` says
        lock = None
    module.exit_json(
        changed=False,
        processes=processes(known, sockets),
        damaged=layout.all_damage(),
        strangers=strangers(known, module.params["user"], module.params["survivors"]),
        generations=known,
        deploys=layout.records()[-DEPLOYS:],
        lock=lock,
    )


if __name__ == "__main__":
    main()
