"""Ask a host in one command of its shell whether there is anything to do, before a module is sent to find that out.

A module starts another Python on the host, 0.2 to 0.3 s of each task; a command takes 0.06 (second run of site.yml on the
local fleet, two cores: 13 s instead of 20). Where the answer is not the expected one, whatever the reason is, the module decides.
"""

from typing import Any

from ansible.plugins.action import ActionBase


class AskingAction(ActionBase):  # type: ignore[misc]
    """An action that runs a module only if the host does not say what it should."""

    TRANSFERS_FILES = False

    def says(self, command: str, expected: list[str]) -> bool:
        """Whether a command succeeds on the host and prints these lines; blank ones do not count."""
        asked = self._low_level_execute_command(command)
        return asked["rc"] == 0 and [line for line in asked["stdout"].splitlines() if line.strip()] == expected

    def run_unless(
        self,
        command: str,
        expected: list[str],
        module: str,
        arguments: dict[str, Any],
        task_vars: dict[str, Any] | None,
    ) -> dict[str, Any]:
        """The result of a module, or that nothing was changed."""
        if self.says(command, expected):
            return {"changed": False}
        done: dict[str, Any] = self._execute_module(module, module_args=arguments, task_vars=task_vars)
        return done
