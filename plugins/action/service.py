"""Enable a unit of systemd (`name`), and start it unless `started` is false, with ansible.builtin.systemd_service."""

import shlex
from typing import Any

from ansible_collections.eyewall.tornado.plugins.plugin_utils.ask import AskingAction


def query(name: str, *, started: bool) -> tuple[str, list[str]]:
    """A command that says how a unit is, and what it prints where there is nothing to do."""
    enabled, active = (shlex.join(["systemctl", question, name]) for question in ("is-enabled", "is-active"))
    return (f"{enabled} && {active}", ["enabled", "active"]) if started else (enabled, ["enabled"])


class ActionModule(AskingAction):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        name, started = self._task.args["name"], self._task.args.get("started", True)
        wanted = {"name": name, "enabled": True, **({"state": "started"} if started else {})}
        return self.run_unless(*query(name, started=started), "ansible.builtin.systemd_service", wanted, task_vars)
