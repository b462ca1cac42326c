"""Ansible module: what runs of the application, what else is there, and what was deployed."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tornado_app_admin import ask
from ansible.module_utils.tornado_app_root import DEPLOY

DOCUMENTATION = r"""
module: tornado_app_info
short_description: What runs of the application, what else is there, and what was deployed
description:
  - C(processes) is what every process says of itself on its admin socket. One of the current generation that does not answer is
    listed with the state C(silent). One of another generation, as in the middle of a handover, is listed if it answers.
  - C(generations) is what the host keeps, the one that was current last first; C(last_current) is when that began (Unix time,
    null for never), and the one that is C(before) is what a rollback leads to.
  - C(deploys) are the last of C(deploys.jsonl), C(lock) is C(deploy.json), null where nobody deploys (M(tornado_app_deploy)).
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  sockets: {type: path, required: true, description: Directory of the admin sockets.}
"""

DEPLOYS = 5  # that are shown


def generations(root: Path) -> list[dict[str, Any]]:
    """Every generation that is complete, by when it became current, the last one first."""
    current = root / "current" / "generation.json"
    now = json.loads(current.read_text()) if current.exists() else {}
    found = []
    for manifest in (root / "generations").glob("*/generation.json"):
        content = json.loads(manifest.read_text())
        found.append(
            {
                "name": content["generation"],
                "release": content["release"],
                "ports": content["ports"],
                "current": content["generation"] == now.get("generation"),
                "before": content["generation"] == now.get("before"),
                # a manifest's date is when it became current, 0 before
                "last_current": int(manifest.stat().st_mtime) or None,
            }
        )
    return sorted(found, key=lambda one: one["last_current"] or 0, reverse=True)


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


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "sockets": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    known = generations(root)
    lock, records = root / DEPLOY, root / "deploys.jsonl"
    lines = records.read_text().splitlines() if records.exists() else []
    module.exit_json(
        changed=False,
        processes=processes(known, Path(module.params["sockets"])),
        generations=known,
        deploys=[json.loads(line) for line in lines[-DEPLOYS:]],
        lock=json.loads(lock.read_text()) if lock.exists() else None,
    )


if __name__ == "__main__":
    main()
