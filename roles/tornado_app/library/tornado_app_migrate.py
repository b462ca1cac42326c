"""Ansible module: run a command of the application once, before any process changes hands."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tornado_app_text import end_of, shown

DOCUMENTATION = r"""
module: tornado_app_migrate
short_description: Run a command of the wanted generation, as the application's account and with its environment
description:
  - For what a release needs before its first process, as a migration of a database. The generation is on the host, and no
    process of it answers yet.
  - A command that fails or takes too long fails the task with its last lines. Secrets, and values of settings with 8 characters
    or more, are replaced by C(********) in whatever it prints.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  generation: {type: str, required: true, description: "The generation whose release and settings it runs with."}
  command: {type: list, elements: str, required: true, description: "The command, a word each; no shell reads it."}
  user: {type: str, required: true, description: The account that it runs as.}
  data: {type: path, required: true, description: "The account's home, in which it runs."}
  timeout: {type: int, required: true, description: "Seconds after which it is killed, with every process that it started."}
"""

SECRET_LENGTH = 8  # of the settings that are masked: shorter ones occur in any text


def account(user: str) -> dict[str, Any]:
    """What makes subprocess.Popen run as an account: its number, its group, and the groups that it is a member of."""
    entry = pwd.getpwnam(user)
    return {
        "user": entry.pw_uid,
        "group": entry.pw_gid,
        "extra_groups": os.getgrouplist(user, entry.pw_gid),
    }


def run(command: list[str], timeout: int, **options: Any) -> tuple[str, bytes]:
    """Run a command; how it failed ("" if it did not), and what it printed. Raises OSError if it cannot be started."""
    # a file, not a pipe: a process that the command leaves behind would keep a pipe open
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **options,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            failure = f"was killed after {timeout} s, its timeout"
        else:
            ended = f"by {signal.Signals(-status).name}" if status < 0 else f"with exit status {status}"
            failure = f"ended {ended}" if status else ""
        return failure, end_of(output)


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
    if not (place / "generation.json").exists():
        module.fail_json(msg=f"{socket.gethostname()}: the generation {place.name} is not on this host.")
    manifest = json.loads((place / "generation.json").read_text())
    release, secrets = manifest["release"], manifest.get("secrets", [])
    settings: dict[str, str] = json.loads((place / "settings.json").read_text())
    environment = {
        "PATH": f"{root}/releases/{release}/venv/bin:/usr/local/bin:/usr/bin:/bin",
        "HOME": data,
        "USER": user,
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",  # what it printed before it was killed is what one wants to see
        "RELEASE": release,
        **settings,
    }
    command = module.params["command"]
    begun = time.monotonic()
    try:
        failure, said = run(command, module.params["timeout"], cwd=data, env=environment, **account(user))
    except OSError as error:
        failure, said = f"cannot be started ({error})", b""
    hidden = [value for name, value in settings.items() if name in secrets or len(value) >= SECRET_LENGTH]
    if failure:
        lines = shown(said, hidden)
        sentence = shown(f"'{shlex.join(command)}' {failure}; nothing was switched.", hidden)
        printed = f"The last lines that it printed:\n{lines}" if lines else "It printed nothing."
        module.fail_json(msg=f"{socket.gethostname()}: {sentence} {printed}")
    module.exit_json(changed=True, stdout=shown(said, hidden, 50), seconds=round(time.monotonic() - begun, 2))


if __name__ == "__main__":
    main()
