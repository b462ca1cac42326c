"""Ansible module: take a host from its current generation to the wanted one, port by port."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.deploy_lock import END, RUN
from ansible_collections.eyewall.tornado.plugins.module_utils.deploy_lock import end as end_change
from ansible_collections.eyewall.tornado.plugins.module_utils.groups import has_supervisor
from ansible_collections.eyewall.tornado.plugins.module_utils.host_state import HostState, is_bare
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import GENERATION, link
from ansible_collections.eyewall.tornado.plugins.module_utils.root import POLL_SECONDS, Failure, alone
from ansible_collections.eyewall.tornado.plugins.module_utils.strangers import Stranger, end, refusal

DOCUMENTATION = r"""
module: handover
short_description: Take a host from its current generation to the wanted one, without losing a request
description:
  - A generation is a release with its settings, one supervisord process group whose configuration never changes
    (M(eyewall.tornado.smoke_test) writes it). The move is, for a batch of ports at a time, to start the new process (it joins
    the port), to wait until its admin socket has said for C(min_ready_seconds) that it is ready, to ask the old one to drain, and
    to stop it when it has. At the end C(current) points to the new generation, which is what starts at boot, and the old group
    is gone.
  - Before that, whatever else runs as the account is looked for, and whatever else listens on the ports. What a release left is
    ended; what anything else leads to, C(strangers) says. The result names both.
  - Whatever state an interrupted run left is taken from where it is.
  - When a new process does not get ready, or ends before the last old one has, every port is given back to the old
    generation, and the result holds the last lines of that process's log.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  generation: {type: str, required: true, description: "Name of the wanted generation, which is on the host."}
  sockets: {type: path, required: true, description: Directory of the admin sockets.}
  start_timeout: {type: int, default: 30, description: Seconds that a process has to get ready.}
  stop_timeout: {type: int, default: 60, description: "Seconds that a process has to leave; supervisord kills it before."}
  min_ready_seconds: {type: float, default: 0, description: Seconds that a new process stays ready before its old one drains.}
  parallel_processes: {type: int, default: 1, description: How many ports are handed over at once.}
  surplus:
    description: What becomes of old processes on ports that the wanted generation does not have. C(keep) lets them serve what
      nginx still sends them; they are returned as C(surplus), and C(stop), once nginx names them no more, ends them.
    type: str
    choices: [keep, stop]
    default: stop
  overlap:
    description: Whether a new process answers before the old one leaves. If not, the old one leaves first, and nobody answers
      on its port meanwhile; for programs that read at their start what they wrote at their end.
    type: bool
    default: true
  user: {type: str, description: "The account of the application. Without it, nobody looks for strangers."}
  survivors: {type: list, elements: str, default: [], description: "Patterns of commands that may run as the account."}
  strangers:
    description: Whether a process of the account that was not started by supervisord, and that is not what a release left, makes
      the move fail. C(tell) is for the way back, which must be open.
    type: str
    choices: [refuse, tell]
    default: refuse
  drain: {type: int, default: 30, description: "Seconds that what a release left has between SIGTERM and SIGKILL."}
  remember: {type: bool, default: true, description: "Whether a rollback from the wanted generation leads to the current one."}
  log_lines: {type: int, default: 20, description: How many lines of a failing process's log to return.}
  end:
    description: What M(eyewall.tornado.deploy_lock) takes to end a change, where this is its last step; C(recorded) is whether it
      has ended it.
    type: dict
  run: {type: dict, description: "The run of ansible-playbook; it comes from the action plugin."}
"""


class Mover(HostState):
    """The move of one host."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.report: dict[int, dict[str, Any]] = {}
        self.ended: list[Stranger] = []
        self.foreign: list[Stranger] = []

    def add(self, generation: str) -> None:
        self.add_group(generation, self.place(generation) / "supervisor.conf")

    def end(self, group: str, ports: list[int]) -> None:
        """Stop processes, and report how long each took."""
        for port, seconds in self.stop(group, ports).items():
            # a port that the wanted generation does not have is reported by its process's own name
            times = self.report.setdefault(port, {} if port in self.ports else {"process": f"{group}:{port}"})
            times["drained_seconds"] = seconds

    def batches(self, ports: list[int]) -> Iterator[list[int]]:
        for first in range(0, len(ports), self.params["parallel_processes"]):
            yield ports[first : first + self.params["parallel_processes"]]

    def pids(self) -> dict[int, int]:
        return {port: info["pid"] for (group, port), info in self.states().items() if group == self.generation}

    def check(self, started: dict[int, int]) -> None:
        """Raises Failure for a new process that is not the one that was `started`, or not ready."""
        pids = self.pids()
        for port in sorted(started):
            if pids.get(port) != started[port] or not self.is_ready(self.generation, port):
                raise Failure(
                    f"{self.generation}:{port} was ready, and ended (supervisord: "
                    f"{self.state(self.generation, port)}).{self.log(self.generation, port)}"
                )

    def watch_new(self, started: dict[int, int], since: float) -> None:
        """Watch the new processes until a while has passed since the last one was ready. Raises Failure as `check` does."""
        deadline = since + self.params["min_ready_seconds"]
        self.check(started)
        while time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
            self.check(started)

    def end_what_was_left(self) -> None:
        """End what a release left. Raises Failure for what comes back, and for a stranger that is to be refused."""
        for seconds in (self.params["drain"], 0):
            self.ended += end(self.strangers("left"), seconds)
        if left := self.strangers("left"):
            raise Failure(f"{'; '.join(map(str, left))} was ended, and is there again.")
        self.foreign = self.strangers("foreign")
        if self.foreign and self.params["strangers"] == "refuse":
            raise Failure(refusal(self.params["user"], self.foreign))

    def move(self) -> None:
        """Take the host to the wanted generation, or leave it where it was and raise Failure."""
        if not self.ports:
            raise Failure(self.layout.absence(self.generation))
        old = self.current if self.current != self.generation else None
        try:
            self.add(self.generation)
            started: dict[int, int] = {}
            for ports in self.batches(self.ports):
                if not self.params["overlap"]:
                    for group in self.others():
                        self.end(group, ports)
                for port, seconds in self.start(self.generation, ports).items():
                    self.report.setdefault(port, {})["ready_seconds"] = seconds
                ready = time.monotonic()
                started |= {port: pid for port, pid in self.pids().items() if port in ports}
                self.watch_new(started, ready)
                for group in self.others():
                    self.end(group, ports)
            # the first ones had the port alone while the last old ones drained
            self.check(started)
            kept = self.kept()
            for group in self.others():
                self.end(
                    group, [port for other, port in self.states() if other == group and f"{group}:{port}" not in kept]
                )
            self.end_what_was_left()
        except Failure as failure:
            try:
                self.restore(old)
            except Failure as second:
                raise Failure(f"{failure}\nGoing back to {old} failed too: {second}") from None
            raise
        self.make_current(old)
        for group in set(self.others()) - {name.partition(":")[0] for name in self.surplus()}:
            self.remove_group(group)

    def make_current(self, old: str | None) -> None:
        """Let the wanted generation be what starts at boot, and remember which one it follows."""
        if old and self.params["remember"]:
            self.layout.write_manifest(
                GENERATION, self.generation, {**self.manifest(self.generation), "before": old}, date=0
            )
        # one step (rename(2)): at every moment something starts at boot
        link(self.layout.current, Path(GENERATION.directory, self.generation))
        date = self.layout.next_date(self.generation)
        os.utime(self.place(self.generation) / GENERATION.manifest, (date, date))

    def restore(self, old: str | None) -> None:
        """Give every port back to the generation that was current, the same way."""
        if old is None and self.current is not None:
            return  # what failed is the current generation itself: there is nothing else to go back to
        others = {self.generation, *self.others()} - {old}
        if not self.params["overlap"]:
            self.leave(others)
        if old:
            self.add(old)
            self.start(old, self.ports_of(old))
        self.leave(others)
        for group in others:
            self.remove_group(group)

    def leave(self, groups: set[str]) -> None:
        for group in groups:
            self.stop(group, [port for other, port in self.states() if other == group])


def record(module: AnsibleModule) -> bool:
    """End the change; whether it has ended. What is in the way, deploy_lock tells in its own task: it is no reason to go back."""
    if not module.params["end"]:
        return False
    root, run = Path(module.params["root"]), module.params["run"]
    try:
        ended = end_change(root, run, module.params["end"], module.warn, check=False)
    except (Failure, OSError):
        return False
    return bool(ended["changed"])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "generation": {"type": "str", "required": True},
            "sockets": {"type": "path", "required": True},
            "start_timeout": {"type": "int", "default": 30},
            "stop_timeout": {"type": "int", "default": 60},
            "min_ready_seconds": {"type": "float", "default": 0},
            "parallel_processes": {"type": "int", "default": 1},
            "surplus": {"type": "str", "choices": ["keep", "stop"], "default": "stop"},
            "overlap": {"type": "bool", "default": True},
            "user": {"type": "str"},
            "survivors": {"type": "list", "elements": "str", "default": []},
            "strangers": {"type": "str", "choices": ["refuse", "tell"], "default": "refuse"},
            "drain": {"type": "int", "default": 30},
            "remember": {"type": "bool", "default": True},
            "log_lines": {"type": "int", "default": 20},
            "run": RUN,
            "end": {"type": "dict", "options": END},
        },
        supports_check_mode=True,
    )
    root, wanted = Path(module.params["root"]), module.params["generation"]
    if module.check_mode and is_bare(root):
        module.exit_json(changed=True, diff={"before": "", "after": f"{wanted}\n"})
    if not has_supervisor():
        module.fail_json(msg="This host has no supervisor; the role supervisord installs it.")
    mover = None
    try:
        with nullcontext() if module.check_mode else alone(root):
            mover = Mover(module.params)
            before = mover.current
            ports_change = before is not None and mover.ports_of(before) != mover.ports
            changed = not mover.is_done()
            if changed and not module.check_mode:
                mover.move()
            surplus = mover.surplus()
            for process in mover.left_early:
                module.warn(
                    f"{socket.gethostname()}: {process} left before it had drained; requests in it may be lost."
                )
        module.exit_json(
            changed=changed,
            recorded=not module.check_mode and record(module),
            generation=wanted,
            ports_change=ports_change,
            surplus=surplus,
            ended=[str(one) for one in mover.ended],
            strangers=[str(one) for one in mover.foreign],
            processes=[{"process": f"{wanted}:{port}", **times} for port, times in sorted(mover.report.items())],
            diff={"before": f"{before or ''}\n", "after": f"{wanted}\n"},
        )
    except Failure as failure:
        module.fail_json(msg=str(failure), current=mover and mover.current)


if __name__ == "__main__":
    main()
