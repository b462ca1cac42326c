"""The controller's part of release: brings the files that it is given, in the same task.

A task of its own for that (`ansible.builtin.copy`) asks for the file, sends it and moves it: two modules more.
"""

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = True  # there is a temporary directory on the host until the task is over

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments, shell = dict(self._task.args), self._connection._shell
        for name in () if self._task.check_mode else {"bundle", "wheelhouse"} & set(arguments):
            there = shell.join_path(shell.tmpdir, f"{name}.tar")
            arguments[name] = self._transfer_file(arguments[name], there)
        result: dict[str, Any] = self._execute_module(module_args=arguments, task_vars=task_vars)
        return result
