"""Ansible module: write configuration files, all of them in one task."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import put, remove, unfinished

DOCUMENTATION = r"""
module: files
short_description: Write configuration files, all of them in one task
description:
  - Each file is root's. It is replaced in one step (rename(2)) and is on the disk when the task ends, its name included, so a
    power cut leaves the old file or the new one. C(ansible.builtin.template) syncs nothing, and takes a task of some 0.7 s for
    each file, and another one for its directory.
  - Directories that are missing are made. Every file with C(validate) is checked before any of the files is replaced.
  - In check mode nothing is written or validated.
options:
  files:
    description: The files.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {type: path, required: true, description: Where it is on the host.}
      content: {type: str, required: true, description: Its text.}
      mode: {type: str, default: "0644", description: Its mode.}
      validate: {type: str, default: "", description: "A command that fails for a wrong file, with C(%s) for its path."}
"""


def found(path: Path) -> str | None:
    """What a file holds; None for none, or for what is no regular file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace") if stat.S_ISREG(path.lstat().st_mode) else None
    except FileNotFoundError:
        return None


def is_as_wanted(path: Path, before: str | None, file: dict[str, Any]) -> bool:
    if before is None or path.read_bytes() != file["content"].encode():
        return False
    status = path.lstat()
    return (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (0, 0, int(file["mode"], 8))


def main() -> None:
    option = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "validate": {"type": "str", "default": ""},
    }
    module = AnsibleModule(
        argument_spec={"files": {"type": "list", "elements": "dict", "required": True, "options": option}},
        supports_check_mode=True,
    )
    os.umask(0o022)
    diff, made = [], []
    try:
        for file in module.params["files"]:
            path = Path(file["path"])
            before = found(path)
            if is_as_wanted(path, before, file):
                continue
            diff.append({"before": before or "", "after": file["content"], "before_header": str(path)})
            if module.check_mode:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            new = unfinished(path, file["content"], mode=int(file["mode"], 8), group=0)
            made.append((new, path))
            if file["validate"]:
                status, out, err = module.run_command(file["validate"] % new)
                if status:
                    refused = f"{path}: got what '{file['validate'].split()[0]}' does not take; nothing was changed."
                    module.fail_json(msg=f"{refused} {err or out}".strip())
        while made:
            put(*made.pop(0))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: got '{error.strerror}'; expected a file that can be written.")
    finally:
        for new, _ in made:
            remove(new)
    module.exit_json(changed=bool(diff), diff=diff)


if __name__ == "__main__":
    main()
