"""The controller's part of host_status: how far the host's clock is from this one."""

import time
from typing import Any

from ansible.plugins.action import ActionBase

MOST = 2.0  # seconds that two clocks may be apart: less than a deploy takes, and what tells who came first


def difference(sent: float, theirs: float, received: float) -> float:
    """Seconds that the host's clock is ahead of this one, at least; negative where it is behind, 0 where it may be equal.

    All are Unix times: this clock's when the host was asked, the host's when it answered, and this clock's when the answer was
    here. How long each way took is not known, so this is all that is.
    """
    return max(theirs - received, 0) + min(theirs - sent, 0)


def problems(ahead: float, synchronized: bool | None) -> list[str]:
    """What is wrong with a clock, in sentences. `synchronized` is None where the clock is not the host's own."""
    found = []
    if abs(ahead) > MOST:
        way = "ahead of" if ahead > 0 else "behind"
        found.append(
            f"clock: got {abs(ahead):.0f} s or more {way} the controller's; expected {MOST:.0f} s or less. "
            "Set whichever is wrong, as with systemd-timesyncd or chrony."
        )
    if synchronized is False:
        found.append("clock: got one that follows no other; expected NTP. Install systemd-timesyncd or chrony.")
    return found


class ActionModule(ActionBase):  # type: ignore[misc]
    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        super().run(tmp, task_vars)
        sent = time.time()
        result: dict[str, Any] = self._execute_module(module_args=self._task.args, task_vars=task_vars)
        if "time" in result:
            result["clock"] = difference(sent, result["time"], time.time())
            result["problems"] += problems(result["clock"], result["synchronized"])
        return result
