"""Ansible module: the open-file limit of a systemd service, in its unit and in its running processes."""

from __future__ import annotations

import resource
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: open_files_service
short_description: The open-file limit of systemd services, in their units and in their running processes
description:
  - Writes C(LimitNOFILE) into a drop-in of each unit, and raises the limit of the processes that run now (prlimit(2)), because
    a service should not lose requests to a restart for it. One that has more keeps it until it is restarted.
options:
  services:
    description: Names of units without C(.service). They need not exist yet.
    type: list
    elements: str
    required: true
  limit:
    description: Number of open files, soft and hard.
    type: int
    required: true
  drop_in:
    description: The text of the drop-in that sets it.
    type: str
    required: true
"""

UNLIMITED = 2**63 - 1
UNITS = Path("/etc/systemd/system")


def running(module: AnsibleModule, service: str) -> list[int]:
    """The processes in the service's control group; none where it does not run."""
    _, out, _ = module.run_command(
        ["systemctl", "show", "--property=ControlGroup", "--value", f"{service}.service"], check_rc=True
    )
    group = out.strip()
    if not group:
        return []
    # cgroup v1 keeps systemd's own tree below "systemd"
    for root in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/systemd")):
        procs = root / group.lstrip("/") / "cgroup.procs"
        if procs.exists():
            return [int(pid) for pid in procs.read_text().split()]
    return []


def in_force(pid: int) -> tuple[int, int]:
    """Soft and hard limit of a process. Read from /proc: prlimit(2) wants CAP_SYS_RESOURCE to read another user's."""
    limits = Path(f"/proc/{pid}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    soft, hard = (UNLIMITED if word == "unlimited" else int(word) for word in line.split()[3:5])
    return soft, hard


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "services": {"type": "list", "elements": "str", "required": True},
            "limit": {"type": "int", "required": True},
            "drop_in": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    limit = module.params["limit"]
    content = module.params["drop_in"]
    before, after = [], []
    reload_units = False
    for service in module.params["services"]:
        drop_in = UNITS / f"{service}.service.d" / "eyewall-open-files.conf"
        old = drop_in.read_text() if drop_in.exists() else ""
        if old != content:
            before.append(f"{drop_in}\n{old}")
            after.append(f"{drop_in}\n{content}")
            reload_units = True
            if not module.check_mode:
                drop_in.parent.mkdir(mode=0o755, exist_ok=True)
                drop_in.write_text(content)
                drop_in.chmod(0o644)
        for pid in running(module, service):
            try:
                soft, hard = in_force(pid)
                if min(soft, hard) >= limit:
                    continue
                if not module.check_mode:
                    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, max(hard, limit)))
            except (FileNotFoundError, ProcessLookupError):  # it has ended since
                continue
            except PermissionError:
                module.fail_json(
                    msg=f"{service} (PID {pid}) has {soft} open files and at most {hard}; this host does not let root give it "
                    f"{limit} while it runs (no CAP_SYS_RESOURCE). Restart {service}, then run this again."
                )
            before.append(f"{service} PID {pid}: {soft} soft, {hard} hard\n")
            after.append(f"{service} PID {pid}: {limit} soft, {max(hard, limit)} hard\n")
    if reload_units and not module.check_mode:
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)
    module.exit_json(changed=bool(after), diff={"before": "".join(before), "after": "".join(after)})


if __name__ == "__main__":
    main()
