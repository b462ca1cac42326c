"""Ansible module: how many open files a process of this host can be given."""

from __future__ import annotations

import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: open_files_info
short_description: The highest open-file limit that a service of this host can have
description:
  - C(reachable) is C(fs.nr_open) where PID 1 may raise its hard limit (C(CAP_SYS_RESOURCE), see setrlimit(2)), and
    PID 1's own hard limit where it may not, as in a container of a restricted host.
  - C(fs.nr_open) counts as unlimited where it can be raised (proc(5), up to a multiple of eight below 2**31).
"""

CAP_SYS_RESOURCE = 24
NR_OPEN_MAXIMUM = 0x7FFFFFC0  # sysctl_nr_open_max of the kernel's fs/file.c on 64 bits


def hard_limit(limits: str) -> int:
    """The hard limit of open files in the text of a `/proc/PID/limits`."""
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    value = line.split()[4]
    return NR_OPEN_MAXIMUM if value == "unlimited" else int(value)


def may_raise(status: str) -> bool:
    """Whether the text of a `/proc/PID/status` has CAP_SYS_RESOURCE in its effective set."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1)


def main() -> None:
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    nr_open_file = Path("/proc/sys/fs/nr_open")
    nr_open = int(nr_open_file.read_text())
    file_max = int(Path("/proc/sys/fs/file-max").read_text())
    init = Path("/proc/1")
    if may_raise((init / "status").read_text()):
        reachable = NR_OPEN_MAXIMUM if os.access(nr_open_file, os.W_OK) else nr_open
        bound = "fs.nr_open"
    else:
        reachable = min(hard_limit((init / "limits").read_text()), nr_open)
        bound = "the hard limit of PID 1, which has no CAP_SYS_RESOURCE to raise it"
    module.exit_json(changed=False, reachable=reachable, bound=bound, nr_open=nr_open, file_max=file_max)


if __name__ == "__main__":
    main()
