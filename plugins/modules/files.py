"""Ansible module: write configuration files, all of them in one task."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path
from typing import NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import prepare, put, remove
from ansible_collections.eyewall.tornado.plugins.module_utils.units import units_of

DOCUMENTATION = r"""
module: files
short_description: Write configuration files, all of them in one task
description:
  - Each file is root's. It is replaced in one step (rename(2)) and is on the disk when the task ends, its name included, so a
    power cut leaves the old file or the new one. C(ansible.builtin.template) syncs nothing, and takes a task of some 0.7 s for
    each file, and another one for its directory.
  - systemd reads units whose files are below C(/etc/systemd/system) again, if they have changed since it did (daemon-reload of
    systemctl(1)). This is so in a task that finds the files as they should be, too, because the run before may have been killed.
  - An action plugin asks the host first, in one command, and sends this module only if something is to do.
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


class File(NamedTuple):
    """A regular file: its bytes, owner, group and mode."""

    content: bytes
    user: int
    group: int
    mode: int


def found(path: Path) -> File | None:
    """The file that is there; None for none, and for a link. Raises OSError for a directory."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(status.st_mode):
        return None
    return File(path.read_bytes(), status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode))


def reload_units(module: AnsibleModule, names: list[str], *, changed: bool) -> None:
    """Let systemd read units again, unless what it has read is what is there."""
    if names and not changed:
        _, said, _ = module.run_command(["systemctl", "show", "--property=NeedDaemonReload", "--value", *names])
        changed = "yes" in said
    if names and changed:
        module.run_command(["systemctl", "daemon-reload"], check_rc=True)


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
    names = units_of(Path(file["path"]) for file in module.params["files"])
    try:
        for file in module.params["files"]:
            path, mode = Path(file["path"]), int(file["mode"], 8)
            before = found(path)
            if before == File(file["content"].encode(), 0, 0, mode):
                continue
            text = before.content.decode(errors="replace") if before else ""
            diff.append({"before": text, "after": file["content"], "before_header": str(path)})
            if module.check_mode:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            new = prepare(path, file["content"], mode=mode, group=0)
            made.append((new, path))
            if file["validate"]:
                status, out, err = module.run_command(file["validate"] % new)
                if status:
                    refused = f"{path}: got what '{file['validate'].split()[0]}' does not take; nothing was changed."
                    module.fail_json(msg=f"{refused} {err or out}".strip())
        while made:
            put(*made.pop(0))
        if not module.check_mode:
            reload_units(module, names, changed=bool(diff))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: got '{error.strerror}'; expected a file that can be written.")
    finally:
        for new, _ in made:
            remove(new)
    module.exit_json(changed=bool(diff), diff=diff)


if __name__ == "__main__":
    main()
