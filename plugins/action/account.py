"""Create a system account (`name`, `comment`, `home`, `shell`) with ansible.builtin.user, unless it is there as it should be."""

import shlex
from collections.abc import Mapping
from typing import Any

from ansible_collections.eyewall.tornado.plugins.plugin_utils.ask import AskingAction


def query(account: Mapping[str, str]) -> tuple[str, list[str]]:
    """A command that says how an account is, and what it prints where there is nothing to do."""
    # passwd(5): name, password, numbers of user and group, comment, home, shell
    command = f"getent passwd {shlex.quote(account['name'])} | cut --delimiter=: --fields=1,5-"
    return command, [":".join(account[part] for part in ("name", "comment", "home", "shell"))]


class ActionModule(AskingAction):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        wanted = {**self._task.args, "system": True, "create_home": False}
        return self.run_unless(*query(self._task.args), "ansible.builtin.user", wanted, task_vars)
