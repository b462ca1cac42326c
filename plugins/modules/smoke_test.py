"""Ansible module: write a generation, and let it answer out of rotation before it takes over."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.deploy_lock import BEGIN, RUN, Refusal, begin
from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure
from ansible_collections.eyewall.tornado.plugins.module_utils.smoke import OPTIONS, smoke_test

DOCUMENTATION = r"""
module: smoke_test
short_description: Write the wanted generation, and boot it once out of rotation
description:
  - A generation is a release with its settings, one supervisord process group. It is written once and never changes.
  - Before any port is touched, one process of it is started beside the ones that run, by supervisord, as it will be run, but on a
    Unix socket instead of a port. It has to get ready, to answer its health path with 2xx and each smoke path with less than 400.
    Then it is stopped. Else the result says what it answered, with the last lines of its log.
  - The generation that is current has proved itself and is left alone.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  generation: {type: str, required: true, description: Name of the wanted generation.}
  release: {type: str, description: "Its release, which is on the host. Without it, the generation has to be there already."}
  program: {type: str, description: The configuration of its process group.}
  proof: {type: str, description: The same for the one process out of rotation.}
  settings: {type: dict, default: {}, description: Its environment.}
  secrets: {type: dict, default: {}, description: "More of its environment, in no log and no diff."}
  ports: {type: list, elements: int, default: [], description: "Its ports, a process each."}
  group: {type: str, required: true, description: The group that may read the settings.}
  sockets: {type: path, required: true, description: Directory of the admin sockets.}
  health_path: {type: str, required: true, description: What has to answer with 2xx.}
  smoke_paths: {type: list, elements: str, default: [], description: What else has to answer with less than 400.}
  host: {type: str, default: localhost, description: "The name that it is asked by, in the C(Host) header."}
  start_timeout: {type: int, default: 30, description: "Seconds that the process has to get ready, and for each answer."}
  stop_timeout: {type: int, default: 60, description: "Seconds that it has to leave; supervisord kills it before."}
  log_lines: {type: int, default: 20, description: How many lines of its log to return.}
  lock:
    description: What M(eyewall.tornado.deploy_lock) takes to begin a change, which comes first; C(begun) is what it says.
    type: dict
  run: {type: dict, description: "The run of ansible-playbook; it comes from the action plugin."}
"""


def main() -> None:
    module = AnsibleModule(
        argument_spec=OPTIONS | {"run": RUN, "lock": {"type": "dict", "options": BEGIN}}, supports_check_mode=True
    )
    params, begun = module.params.copy(), {}
    run, lock, root = params.pop("run"), params.pop("lock"), Path(params["root"])
    try:
        if lock:
            begun = begin(root, run, lock, module.warn, check=module.check_mode)
        result = smoke_test(params, check=module.check_mode)
    except Refusal as refusal:
        module.fail_json(msg=str(refusal), lock=refusal.lock)
    except Failure as failure:
        module.fail_json(msg=str(failure), begun=begun)
    module.exit_json(**result, begun=begun)


if __name__ == "__main__":
    main()
