"""The controller's part of release: which run it is; and it brings the files that it is given, in the same task.

A task of its own for that (`ansible.builtin.copy`) asks for the file, sends it and moves it: two modules more.
"""

from typing import Any

from ansible_collections.eyewall.tornado.plugins.plugin_utils.this_run import LockingAction


class ActionModule(LockingAction):
    TRANSFERS_FILES = True  # there is a temporary directory on the host until the task is over

    def arguments(self) -> dict[str, Any]:
        arguments, shell = super().arguments(), self._connection._shell
        for name in () if self._task.check_mode else {"bundle", "wheelhouse"} & set(arguments):
            there = shell.join_path(shell.tmpdir, f"{name}.tar")
            arguments[name] = self._transfer_file(arguments[name], there)
        return arguments
