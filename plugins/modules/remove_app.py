"""Ansible module: remove an application from this host."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.groups import Groups, has_supervisor
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import GENERATION, Layout
from ansible_collections.eyewall.tornado.plugins.module_utils.root import PREFIX, Failure, alone, known_groups

DOCUMENTATION = r"""
module: remove_app
short_description: Remove an application from this host
description:
  - What it has is known by the file of tmpfiles.d(5) that the role C(tornado_app) wrote, which goes last. So a removal that was
    interrupted goes on where it was.
  - nginx forgets the application first, so that nothing new comes in; then its processes drain and end; then its units, its
    releases, its logs and its sockets go. Its data, and the account that owns them, stay unless O(data) is true.
options:
  name: {type: str, required: true, description: Name of the application.}
  data: {type: bool, default: false, description: Whether its data and its account go as well.}
  stop_timeout: {type: int, default: 120, description: Seconds that its processes have to end.}
"""

ETC = Path("/etc")
SBIN = Path("/usr/local/sbin")
UNITS = ETC / "systemd" / "system"
NO_SUCH_USER = 6  # userdel(8)


class Claim(NamedTuple):
    """What the file of tmpfiles.d(5) says of an application."""

    file: Path
    root: Path
    data: Path
    logs: Path
    sockets: Path
    user: str


def claim(name: str) -> Claim | None:
    """What an application has on this host; None for nothing. The order of the lines is that of the role's template."""
    file = ETC / "tmpfiles.d" / f"{PREFIX}{name}.conf"
    if not file.exists():
        return None
    lines = [line.split() for line in file.read_text().splitlines()]
    lines = [words for words in lines if words[:1] == ["d"] and not words[1].startswith("/etc/")]
    root, data, logs, sockets = (Path(lines[number][1]) for number in (0, 4, 5, 6))
    return Claim(file, root, data, logs, sockets, lines[4][3])


def forget_in_nginx(module: AnsibleModule, name: str) -> None:
    """Take the application's part out of nginx's configuration. An interrupted removal may have, and not have reloaded."""
    (ETC / "nginx" / f"{PREFIX}{name}.conf").unlink(missing_ok=True)
    active, _, _ = module.run_command(["systemctl", "is-active", "--quiet", "nginx.service"])
    if active == 0:
        module.run_command(["systemctl", "reload", "nginx.service"], check_rc=True)


def stop_processes(found: Claim, timeout: int) -> list[str]:
    """Let every process of the application leave, and supervisord forget them; the groups that it knew."""
    if not has_supervisor():
        return []
    groups = Groups({"root": str(found.root), "sockets": str(found.sockets), "stop_timeout": timeout, "log_lines": 20})
    own = {*groups.layout.names(GENERATION), groups.current}
    names = [name for name in known_groups() if name.removesuffix("-proof") in own]
    for name in names:
        groups.stop(name, [port for group, port in groups.states() if group == name])
        groups.remove_group(name)
    return names


def files_of(name: str) -> list[Path]:
    """Files outside of the application's directories, but for the one that says what it has."""
    own = f"{PREFIX}{name}"
    return [
        UNITS / "supervisor.service.d" / f"{own}.conf",
        UNITS / f"{own}-ready.service",
        SBIN / f"{own}-start-current",
        SBIN / f"{own}-await-ready",
        ETC / "sysctl.d" / f"60-{own}.conf",
    ]


def remove(module: AnsibleModule, found: Claim, name: str) -> dict[str, Any]:
    """Remove it all; what went, and what stays."""
    going = [path for path in files_of(name) if path.exists()]
    places = [path for path in (found.root, found.logs, found.sockets) if path.exists()]
    places += [found.data] if module.params["data"] and found.data.exists() else []
    stopped: list[str] = []
    if not module.check_mode:
        forget_in_nginx(module, name)
        if found.root.is_dir():
            with alone(found.root):
                stopped = stop_processes(found, module.params["stop_timeout"])
        unit = f"{PREFIX}{name}-ready.service"
        if (UNITS / unit).exists():
            module.run_command(["systemctl", "disable", "--quiet", unit], check_rc=True)
        for path in going:
            path.unlink(missing_ok=True)
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        for place in places:
            shutil.rmtree(place)
        if module.params["data"]:
            status, _, said = module.run_command(["userdel", found.user])
            if status not in (0, NO_SUCH_USER):
                raise Failure(f"userdel {found.user}: {said.strip()}")
        found.file.unlink()
    kept = [] if module.params["data"] else [str(found.data), f"the account {found.user}"]
    return {"changed": True, "removed": [*map(str, [*going, *places, found.file])], "stopped": stopped, "kept": kept}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "data": {"type": "bool", "default": False},
            "stop_timeout": {"type": "int", "default": 120},
        },
        supports_check_mode=True,
    )
    name = module.params["name"]
    found = claim(name)
    result: dict[str, Any] = {"changed": False, "removed": [], "stopped": [], "kept": []}
    if found:
        if (lock := Layout(found.root).held()) is not None:
            module.fail_json(
                msg=f"{name}: got a deploy of {lock['release']} by {lock['owner']} that holds this host; expected none. Wait."
            )
        try:
            result = remove(module, found, name)
        except Failure as failure:
            module.fail_json(msg=f"{name} was not removed: {failure}")
    module.exit_json(**result)


if __name__ == "__main__":
    main()
