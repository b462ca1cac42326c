"""Which files of a host are as their Debian package brought them."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule


def conffiles_of(module: AnsibleModule) -> str:
    """What dpkg knows of every configuration file: `` PATH MD5``, a line each (deb-conffiles(5), dpkg-query(1))."""
    said: str = module.run_command(["dpkg-query", "--show", "--showformat=${Conffiles}\n"], check_rc=True)[1]
    return said


def as_packaged(path: Path, conffiles: str) -> bool:
    """Whether a file that is there is as its package brought it, by what `conffiles_of` returned."""
    known = re.findall(rf"^ {re.escape(str(path))} ([0-9a-f]{{32}})\b", conffiles, re.MULTILINE)
    return hashlib.md5(path.read_bytes()).hexdigest() in known  # noqa: S324 -- what dpkg keeps
