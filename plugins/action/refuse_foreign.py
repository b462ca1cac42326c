"""The controller's part of refuse_foreign: runs the module unless the claim is there, by which the files are known to be ours."""

from typing import Any

from ansible_collections.eyewall.tornado.plugins.plugin_utils.ask import AskingAction


def query(claim: str) -> tuple[str, list[str]]:
    """A command that looks for a file, whose name may have wildcards, and what it prints where there is one."""
    return f"ls -d {claim} >/dev/null && echo claimed", ["claimed"]


class ActionModule(AskingAction):
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        given = self._task.args
        # who has a port may be another one each time
        if given.get("claim") and not given.get("ports"):
            return self.run_unless(*query(given["claim"]), self._task.action, given, task_vars)
        done: dict[str, Any] = self._execute_module(module_args=given, task_vars=task_vars)
        return done
