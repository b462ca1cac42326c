"""Ansible module: what the processes of the application say of themselves."""

from __future__ import annotations

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tornado_app_admin import ask

DOCUMENTATION = r"""
module: tornado_app_info
short_description: What the processes of the application say of themselves
description:
  - Asks every process of the current generation on its admin socket. One that does not answer is listed with the state C(silent).
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  sockets: {type: path, required: true, description: Directory of the admin sockets.}
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "sockets": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    manifest = Path(module.params["root"], "current", "generation.json")
    processes = []
    if manifest.exists():
        current = json.loads(manifest.read_text())
        for port in current["ports"]:
            answer = ask(f"{module.params['sockets']}/{current['generation']}-{port}.sock", "/status")
            processes.append(answer or {"state": "silent", "port": port, "release": current["release"]})
    module.exit_json(changed=False, processes=processes)


if __name__ == "__main__":
    main()
