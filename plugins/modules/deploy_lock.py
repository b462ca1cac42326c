"""Ansible module: the beginning and the end of a change of the application on a host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.deploy_lock import BEGIN, END, RUN, Refusal, begin, end
from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure

DOCUMENTATION = r"""
module: deploy_lock
short_description: Begin and end a change of the application on a host, one at a time, and keep a record
description:
  - The beginning takes the host's lock, C(deploy.json), and says which generation the host is to go back to when the change fails
    anywhere. The end adds a line to C(deploys.jsonl) and gives the lock up. In one run of ansible-playbook, both may be repeated.
  - The end of one that succeeded removes what nobody goes back to, C(removed).
  - M(eyewall.tornado.release), M(eyewall.tornado.smoke_test) and M(eyewall.tornado.handover) begin and end one in the same call,
    because a module alone takes half a second.
  - A lock of another run is refused, with a sentence that says whose it is. One whose time is up, or whose ansible-playbook was
    killed on this controller, is taken over, with the generation that its run was to go back to.
  - The beginning makes the directories of C(directories) that are gone, as after somebody removed one in C(/run), because a
    process without the directory of its socket cannot be asked to leave.
  - Every date is the host's, whose clock may be set. How long a lock holds is counted from the host's boot. An action plugin adds
    what it is called by, so it works in a task only.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  state: {type: str, choices: [begun, ended], required: true, description: Which of the two.}
  wanted: {type: str, description: "Name of the wanted generation; to begin."}
  release: {type: str, description: "Its release; to begin."}
  verb: {type: str, choices: [deploy, rollback], description: "What is done; to begin."}
  directories: {type: path, description: "The file of tmpfiles.d(5) that has the application's directories; to begin."}
  expires: {type: int, description: "Seconds from now after which another run may take the lock over; to begin."}
  message: {type: str, description: "Why it failed, of which the first line is kept; without it, it succeeded. To end."}
  logs: {type: path, description: "The directory of the application's logs; to end."}
  keep: {type: int, description: "How many generations stay, at least 2; to end."}
  run:
    description: The run of ansible-playbook; it comes from the action plugin.
    type: dict
    required: true
    suboptions:
      id: {type: str, required: true, description: Its name.}
      owner: {type: str, required: true, description: "Who runs it, as in C(user@controller)."}
      controller: {type: str, required: true, description: "Where, since its last boot."}
      pid: {type: int, required: true, description: Its process.}
      pid_started: {type: int, required: true, description: "When that started, in clock ticks of the controller."}
      dead: {type: str, description: "A run that is known to be dead, whose lock may be taken over."}
"""

STATES = {"begun": BEGIN, "ended": END}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "run": {**RUN, "required": True},
            "state": {"type": "str", "choices": list(STATES), "required": True},
            **{name: {**spec, "required": False} for name, spec in (BEGIN | END).items()},
            "message": {"type": "str"},
        },
        required_if=[
            ("state", state, [name for name, spec in options.items() if spec.get("required")])
            for state, options in STATES.items()
        ],
        supports_check_mode=True,
    )
    params: dict[str, Any] = module.params
    root, run, check = Path(params["root"]), params["run"], module.check_mode
    try:
        if params["state"] == "begun":
            result = begin(root, run, params, module.warn, check=check)
        else:
            result = end(root, run, params, module.warn, check=check, message=params["message"])
    except Refusal as refusal:
        module.fail_json(msg=str(refusal), lock=refusal.lock)
    except Failure as failure:
        module.fail_json(msg=str(failure))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
