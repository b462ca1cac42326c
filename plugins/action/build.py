"""Build the bundle of a release, in this process: a module would be another Python, with everything read once more (0.9 s)."""

from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.eyewall.tornado.plugins.plugin_utils.build import OPTIONS, result_of


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        _, arguments = self.validate_argument_spec(argument_spec=OPTIONS)
        # what changes is a cache of the controller, whose other tasks need it in check mode too
        return {**result, **result_of(arguments), "changed": False}
