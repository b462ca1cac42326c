"""Ansible module: load firewall rules on trial, keep them, take them back, or take them away."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any, NoReturn

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: firewall
short_description: Load the rules of the table C(inet eyewall), and keep them only if a new SSH connection gets in
description:
  - Called as a task, the action plugin of the same name runs this module two times. First it loads the rules on trial, with
    a timer of systemd on the host that takes them back. Then a new SSH connection is made, and over it the rules are kept.
    Whatever ends in between, Ansible or the connection, the timer does not know of it.
  - A host whose rules are in force already, and in its file, is left alone.
  - No other table is touched.
options:
  rules: {type: str, required: true, description: "The table, as C(nft -f) reads it; empty to take it away."}
  timeout: {type: int, required: true, description: Seconds until the timer takes the rules back.}
  step: {type: str, choices: [try, keep, undo], default: try, description: The action plugin's.}
  tried: {type: str, default: "", description: "With C(keep), the table as it was on trial."}
"""

TABLE = ["table", "inet", "eyewall"]
EMPTY = "table inet eyewall\ndelete table inet eyewall\n"
RULES = Path("/etc/eyewall/firewall.nft")
# The table as nft lists it when the file is loaded: what somebody changed by hand shows.
LOADED = Path("/var/lib/eyewall/firewall.loaded")
# The rules on trial and those of before, gone with a reboot: that loads the file, which is not written yet.
TRIAL = Path("/run/eyewall-firewall")
UNIT = Path("/etc/systemd/system/eyewall-firewall.service")
DROP_IN = Path("/etc/systemd/system/nftables.service.d/eyewall.conf")
UNDO = "eyewall-firewall-undo"
# Before there was a table, nothing may have kept account of connections: those that are there would be strangers, and what
# comes next on them would be dropped. During the trial they are let in, and so known.
KNOWN_FROM_NOW_ON = "insert rule inet eyewall input tcp flags & (syn | ack) == ack accept\n"


def read(path: Path) -> str:
    """What a file has; nothing if it is not there."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def shown(before: str, after: str) -> dict[str, str]:
    """A difference as Ansible shows it."""
    name = " ".join(TABLE)
    return {"before_header": name, "after_header": name, "before": before, "after": after}


class Firewall:
    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.rules: str = module.params["rules"]
        self.nft = shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin:/bin")

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def must(self, *command: str) -> None:
        """Run a command; fail with what it says if it fails."""
        done = self.run(*command)
        if done.returncode:
            self.fail(f"'{' '.join(command)}' failed: {(done.stderr or done.stdout).strip()}")

    def fail(self, sentence: str) -> NoReturn:
        self.module.fail_json(msg=f"{socket.gethostname()}: {sentence}")
        raise AssertionError("fail_json ends the module")

    def write(self, path: Path, text: str) -> None:
        """Write a file that nobody else may read, in one step."""
        path.parent.mkdir(mode=0o755, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.touch(mode=0o600)
        part.write_text(text, encoding="utf-8")
        part.replace(path)

    def table(self, *options: str) -> str:
        """The table as it is in force; nothing if there is none."""
        if not self.nft:
            return ""
        done = self.run(self.nft, *options, "list", *TABLE)
        return done.stdout if done.returncode == 0 else ""

    def try_out(self) -> dict[str, Any]:
        """Load the rules, to be taken back by a timer, unless they are in force."""
        before, in_force = read(RULES), self.table("-s")
        if before == self.rules and in_force and in_force == read(LOADED):
            return {"changed": False}
        # where the file is as it should be, something was done to the table by hand
        difference = shown(before, self.rules) if before != self.rules else shown(in_force, read(LOADED))
        if self.module.check_mode:
            self.check(self.rules)
            return {"changed": True, "diff": difference}
        self.write(TRIAL / "before.nft", EMPTY + self.table())
        self.write(TRIAL / "wanted.nft", self.rules if in_force else self.rules + KNOWN_FROM_NOW_ON)
        self.check(self.rules)
        timer = self.run(
            "systemd-run", "--quiet", "--collect", f"--unit={UNDO}", f"--on-active={self.module.params['timeout']}s",
            "--timer-property=AccuracySec=100ms", "/usr/sbin/nft", "-f", str(TRIAL / "before.nft"),
        )  # fmt: skip
        if timer.returncode:
            self.fail(
                "another run tries rules out here, or was cut short a moment ago; they are taken back by a timer. Then run the"
                f" same command again. ({timer.stderr.strip()})"
            )
        self.must(self.nft or "nft", "-f", str(TRIAL / "wanted.nft"))
        return {"changed": True, "diff": difference, "tried": self.table("-s")}

    def check(self, rules: str) -> None:
        """Refuse what nft does not take; where it is not installed yet, nothing can be said."""
        if not self.nft:
            return
        done = subprocess.run(
            [self.nft, "-c", "-f", "-"], input=rules, capture_output=True, text=True, check=False
        )  # fmt: skip
        if done.returncode:
            self.fail(f"nft refuses the rules (look at firewall_extra_rules first):\n{done.stderr.strip()}")

    def end_trial(self) -> None:
        """Nothing is taken back from now on."""
        self.run("systemctl", "stop", f"{UNDO}.timer", f"{UNDO}.service")

    def keep(self) -> dict[str, Any]:
        """What was tried is what the host has from now on, and after a reboot."""
        self.end_trial()
        if self.table("-s") != self.module.params["tried"]:
            self.fail("the rules were taken back before they could be kept; run the same command again.")
        self.write(TRIAL / "wanted.nft", self.rules)
        self.must(self.nft or "nft", "-f", str(TRIAL / "wanted.nft"))
        self.write(RULES, self.rules)
        self.write(LOADED, self.table("-s"))
        shutil.rmtree(TRIAL)
        return {"changed": True}

    def undo(self) -> dict[str, Any]:
        """The rules of before are in force, whether the timer was first or not."""
        self.end_trial()
        if (TRIAL / "before.nft").exists():
            self.must(self.nft or "nft", "-f", str(TRIAL / "before.nft"))
            shutil.rmtree(TRIAL)
        return {"changed": False}

    def take_away(self) -> dict[str, Any]:
        """Nothing of it is left; what others have in nftables is."""
        there = [path for path in (RULES, LOADED, UNIT, DROP_IN) if path.exists()]
        if not there and not self.table():
            return {"changed": False}
        gone = shown(read(RULES), "")
        if not self.module.check_mode:
            self.end_trial()
            if UNIT.exists():
                self.must("systemctl", "disable", "--now", UNIT.name)
            if self.table():
                self.must(self.nft or "nft", "delete", *TABLE)
            for path in there:
                path.unlink()
            self.must("systemctl", "daemon-reload")
        return {"changed": True, "diff": gone}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "rules": {"type": "str", "required": True},
            "timeout": {"type": "int", "required": True},
            "step": {"type": "str", "choices": ["try", "keep", "undo"], "default": "try"},
            "tried": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    firewall = Firewall(module)
    steps = {"try": firewall.try_out, "keep": firewall.keep, "undo": firewall.undo}
    step = steps[module.params["step"]] if firewall.rules else firewall.take_away
    module.exit_json(**step())


if __name__ == "__main__":
    main()
