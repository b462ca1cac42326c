"""Ansible module: refuse to take over what is somebody else's on this host."""

from __future__ import annotations

import re
import socket
from glob import glob
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.packaged import as_packaged, conffiles_of

DOCUMENTATION = r"""
module: refuse_foreign
short_description: Refuse to take over files and ports that are somebody else's
description:
  - A role that writes a whole file, or listens on a port, asks this before it changes anything. Changes nothing.
  - A file is free if it is not there, if it is as Debian's package brought it (dpkg's conffiles), or if the role wrote it.
  - A port is free if nobody listens on it, or only processes of these services. Port 0 is none.
options:
  files: {type: dict, default: {}, description: "By path, words that are in the file when the role wrote it."}
  claim: {type: str, default: "", description: "A glob: where it finds something the role was before, and the files are its own."}
  ports: {type: dict, default: {}, description: "By the name of its variable, a port."}
  services: {type: list, elements: str, default: [], description: "The systemd units whose processes may have the ports."}
"""


def foreign_files(module: AnsibleModule, files: dict[str, str], claim: str) -> list[str]:
    """Those of the files that are somebody else's."""
    if claim and glob(claim):  # noqa: PTH207 -- absolute, and may have wildcards in its directory
        return []
    not_ours = [
        path
        for path, words in files.items()
        if (file := Path(path)).exists() and words not in file.read_text(errors="replace")
    ]
    if not not_ours:  # as in every run but a host's first
        return []
    conffiles = conffiles_of(module)
    return [path for path in not_ours if not as_packaged(Path(path), conffiles)]


def holders(listening: str) -> list[tuple[str, int]]:
    """Name and PID of each process in what `ss -p` prints."""
    return [(name, int(pid)) for name, pid in re.findall(r'\("([^"]+)",pid=(\d+)', listening)]


def is_of(pid: int, services: list[str]) -> bool:
    """Whether a process is in the control group of one of these systemd units."""
    try:
        group = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:  # it ended
        return True
    return any(f"/{service}" in group for service in services)


def port_mistake(module: AnsibleModule, variable: str, port: int, services: list[str]) -> str | None:
    """Who else listens on a port, in a sentence; None for nobody."""
    _, listening, _ = module.run_command(["ss", "-H", "-l", "-t", "-n", "-p", f"sport = :{port}"])
    if not listening.strip():
        return None
    seen = holders(listening)
    # who may not look into others' processes knows only that the service is there
    if not seen and services and module.run_command(["systemctl", "is-active", "--quiet", *services])[0] == 0:
        return None
    others = sorted({f"{name} (PID {pid})" for name, pid in seen if not is_of(pid, services)})
    if seen and not others:
        return None
    return (
        f"{variable}: got {port}, which {', '.join(others) or 'another program'} has on {socket.gethostname()}; "
        "expected a free port. Choose another one, or stop that program."
    )


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "files": {"type": "dict", "default": {}},
            "claim": {"type": "str", "default": ""},
            "ports": {"type": "dict", "default": {}},
            "services": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    params: dict[str, Any] = module.params
    sentences = [
        f"{path}: got a file on {socket.gethostname()} that somebody wrote; expected none, or Debian's own, because this file is "
        "written whole. Keep what it has elsewhere and remove it, or give this part of the site another host."
        for path in foreign_files(module, params["files"], params["claim"])
    ]
    for variable, port in params["ports"].items():
        if int(port) and (wrong := port_mistake(module, variable, int(port), list(filter(None, params["services"])))):
            sentences.append(wrong)
    if sentences:
        module.fail_json(msg=" ".join(sentences))
    module.exit_json(changed=False)


if __name__ == "__main__":
    main()
