"""The controller's part of firewall: a new SSH connection decides whether new rules stay."""

import time
from typing import Any

from ansible.errors import AnsibleConnectionFailure
from ansible.plugins.action import ActionBase

PAUSE = 1.0  # seconds between two tries


class ActionModule(ActionBase):  # type: ignore[misc]
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        arguments, variables = self._task.args, task_vars or {}

        def step(name: str, **more: Any) -> dict[str, Any]:
            done: dict[str, Any] = self._execute_module(
                module_args={**arguments, "step": name, **more}, task_vars=variables
            )
            return done

        here = self.came_in()
        tried = step("try")
        if "tried" not in tried:
            return tried
        seconds, since = int(arguments["timeout"]), time.monotonic()
        reason = self.no_new_connection(here, since + seconds)
        if not reason:
            kept = step("keep", tried=tried["tried"])
            return kept if kept.get("failed") else {**kept, "diff": tried["diff"]}
        back = self.undone(lambda: step("undo"), since + seconds + 60)
        host = variables.get("inventory_hostname", "the host")
        return {
            "failed": True,
            "msg": f"{host}: no new SSH connection got in through the new rules within {seconds} s ({reason}). "
            + (
                "The rules of before are in force again. Look at firewall_ssh_ports, firewall_ssh_from and firewall_extra_rules."
                if back
                else "It cannot be reached now; its own timer was to bring the rules of before back. On its console: "
                "systemctl stop eyewall-firewall; nft delete table inet eyewall"
            ),
        }

    def came_in(self) -> str:
        """From which address and port the host has the connection, and at which: no two connections have the same."""
        # without become, for sudo takes it away
        return str(self._low_level_execute_command("printenv SSH_CONNECTION", sudoable=False)["stdout"]).strip()

    def no_new_connection(self, before: str, deadline: float) -> str:
        """Why no new connection came in until a deadline; "" as soon as one has."""
        while True:
            try:
                # One that is there already passes whatever the rules are, and ControlPersist keeps it
                self._connection.reset()
                now = self.came_in()
                reason = "" if now and now != before else "the connection of before is still in use"
            except AnsibleConnectionFailure as error:
                reason = str(error).strip()
            if not reason or time.monotonic() > deadline:
                return reason
            time.sleep(PAUSE)

    def undone(self, undo: Any, deadline: float) -> bool:
        """Whether the host says until a deadline that the rules of before are in force."""
        while True:
            try:
                return not undo().get("failed")
            except AnsibleConnectionFailure:
                if time.monotonic() > deadline:
                    return False
            time.sleep(PAUSE)
