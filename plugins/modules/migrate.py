"""Ansible module: run a command of the application once, before any process changes hands."""

from __future__ import annotations

import shlex
import socket
import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.account import environment_of, last_lines, run_as
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import GENERATION, SETTINGS, Damaged, Layout, read
from ansible_collections.eyewall.tornado.plugins.module_utils.text import shown

DOCUMENTATION = r"""
module: migrate
short_description: Run a command of the wanted generation, as the application's account and with its environment
description:
  - For what a release needs before its first process, as a migration of a database. The generation is on the host, and no
    process of it answers yet.
  - A command that fails or takes too long fails the task with its last lines. Secrets, and values of settings with 8 characters
    or more, are replaced by C(********) in whatever it prints.
  - When it ends, every process that it has started ends, too. Nothing makes it more than the account (C(no_new_privs)).
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  generation: {type: str, required: true, description: "The generation whose release and settings it runs with."}
  command: {type: list, elements: str, required: true, description: "The command, a word each; no shell reads it."}
  user: {type: str, required: true, description: The account that it runs as.}
  data: {type: path, required: true, description: "The account's home, in which it runs."}
  timeout: {type: int, required: true, description: "Seconds after which it is killed."}
"""

SECRET_LENGTH = 8  # of the settings that are masked: shorter ones occur in any text


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "generation": {"type": "str", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "user": {"type": "str", "required": True},
            "data": {"type": "path", "required": True},
            "timeout": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    if module.check_mode:
        module.exit_json(changed=True)
    root, data, user = Path(module.params["root"]), module.params["data"], module.params["user"]
    place = root / "generations" / module.params["generation"]
    try:
        manifest = Layout(root).manifest(GENERATION, place.name)
        settings: dict[str, str] = read(place / SETTINGS, {})
    except Damaged:
        module.fail_json(msg=f"{socket.gethostname()}: {Layout(root).absence(place.name)}")
    release, secrets = manifest["release"], manifest.get("secrets", [])
    environment = environment_of(user, data)
    environment |= {
        "PATH": f"{root}/releases/{release}/venv/bin:{environment['PATH']}",
        "PYTHONUNBUFFERED": "1",  # what it printed before it was killed is what one wants to see
        "RELEASE": release,
        **settings,
    }
    command, limit = module.params["command"], module.params["timeout"]
    begun = time.monotonic()
    try:
        failure, said = run_as(
            user, command, seconds=limit, variable="tornado_app_migrate_timeout", cwd=data, env=environment
        )
    except OSError as error:
        failure, said = f"cannot be started ({error})", b""
    hidden = [value for name, value in settings.items() if name in secrets or len(value) >= SECRET_LENGTH]
    if failure:
        sentence = shown(f"'{shlex.join(command)}' {failure}; nothing was switched.", hidden)
        module.fail_json(msg=f"{socket.gethostname()}: {sentence} {last_lines(said, hidden)}")
    module.exit_json(changed=True, stdout=shown(said, hidden, 50), seconds=round(time.monotonic() - begun, 2))


if __name__ == "__main__":
    main()
