"""Install Debian's packages (`name`, a list) with ansible.builtin.apt, unless dpkg says that all of them are there."""

import shlex
from typing import Any

from ansible_collections.eyewall.tornado.plugins.plugin_utils.ask import AskingAction


def query(names: list[str]) -> tuple[str, list[str]]:
    """A command that says of packages whether they are there, and what it prints where there is nothing to do."""
    command = shlex.join(["dpkg-query", "--show", "--showformat=${db:Status-Status}\\n", *names])
    return command, ["installed"] * len(names)


class ActionModule(AskingAction):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        names = self._task.args["name"]
        wanted = {"name": names, "install_recommends": False, "update_cache": True, "cache_valid_time": 3600}
        return self.run_unless(*query(names), "ansible.builtin.apt", wanted, task_vars)
