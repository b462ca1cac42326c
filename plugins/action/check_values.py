"""Refuse values that no type forbids, a sentence for each mistake, before anything on a host is changed.

One task for all the values of a role: `ansible.builtin.assert` in a loop is one for each, of 0.1 s (30 of HAProxy's took 3 s).
"""

from typing import Any

from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template


class ActionModule(ActionBase):  # type: ignore[misc]
    """`rules` have the `name` of a variable, `that`, which is to be true, and what is `expected`; `secret` shows no value."""

    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        found = [self.sentence(rule) for rule in self._task.args["rules"] if not rule["that"]]
        if found:
            result.update(failed=True, msg=" ".join(dict.fromkeys(found)))
        return result

    def sentence(self, rule: dict[str, Any]) -> str:
        """What is wrong with a value."""
        got = "" if rule.get("secret") else f"got '{self.value(rule['name'])}'; "
        return f"{rule['name']}: {got}expected {rule['expected']}."

    def value(self, name: str) -> Any:
        """What a variable is on this host."""
        return self._templar.template(trust_as_template("{{ lookup('ansible.builtin.vars', '" + name + "') }}"))
