"""Ansible module: whether a host runs the wanted generation and nothing else of the application."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.host_state import HostState, is_bare
from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure

DOCUMENTATION = r"""
module: handover_info
short_description: Whether a host runs the wanted generation, and nothing else of the application
description:
  - C(differs) is whether M(eyewall.tornado.handover) would change anything, C(locked) whether a deploy has the host or was
    interrupted on it, and C(damaged) has a sentence for each file that the same deploy makes again.
  - C(surplus) are processes on ports that the wanted generation does not have, which serve as long as nginx names them.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  generation: {type: str, required: true, description: Name of the wanted generation.}
  sockets: {type: path, required: true, description: Directory of the admin sockets.}
  directories:
    description: The file of tmpfiles.d(5) that has the application's directories. While one is gone, the host differs.
    type: path
  user: {type: str, description: "The account of the application. Without it, nobody looks for strangers."}
  survivors: {type: list, elements: str, default: [], description: "Patterns of commands that may run as the account."}
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "generation": {"type": "str", "required": True},
            "sockets": {"type": "path", "required": True},
            "directories": {"type": "path"},
            "user": {"type": "str"},
            "survivors": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    if is_bare(Path(module.params["root"])):
        module.exit_json(changed=False, differs=True, locked=False, damaged=[], surplus=[])
    try:
        state = HostState({**module.params, "surplus": "keep"})
        module.exit_json(
            changed=False,
            differs=not state.is_done(),
            locked=os.path.lexists(state.layout.lock),
            damaged=state.layout.all_damage(),
            surplus=state.surplus(),
        )
    except Failure as failure:
        module.fail_json(msg=str(failure))


if __name__ == "__main__":
    main()
