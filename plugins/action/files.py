"""The controller's part of files: runs the module only if a file is not as it should be, or systemd has not read it."""

import hashlib
import shlex
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.module_utils.units import units_of
from ansible_collections.eyewall.tornado.plugins.plugin_utils.ask import AskingAction


def query(files: Sequence[Mapping[str, Any]]) -> tuple[str, list[str]]:
    """A command that says of files what type, mode, owner, group and content they have, and what it prints where all is well."""
    paths = [file["path"] for file in files]
    modes = [stat.S_IFREG | int(file.get("mode", "0644"), 8) for file in files]
    hashes = [hashlib.sha256(file["content"].encode()).hexdigest() for file in files]
    # nothing of a path is looked for behind a link
    commands = [["stat", "--format=%f %u %g", "--", *paths], ["sha256sum", "--", *paths]]
    expected = [f"{mode:x} 0 0" for mode in modes]
    expected += [f"{digest}  {path}" for digest, path in zip(hashes, paths, strict=True)]
    if units := units_of(map(Path, paths)):
        commands.append(["systemctl", "show", "--property=NeedDaemonReload", "--value", *units])
        expected += ["no"] * len(units)
    return " && ".join(map(shlex.join, commands)), expected


class ActionModule(AskingAction):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        given = self._task.args
        return self.run_unless(*query(given["files"]), self._task.action, given, task_vars)
