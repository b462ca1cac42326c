"""Ansible module: take a host from its current generation to the wanted one, port by port."""

from __future__ import annotations

import grp
import json
import os
import shutil
import time
import xmlrpc.client
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.tornado_app_admin import ask

try:
    from supervisor.xmlrpc import Faults, SupervisorTransport
except ImportError:  # a bare host in check mode
    SupervisorTransport = None

DOCUMENTATION = r"""
module: tornado_app_generation
short_description: Take a host from its current generation to the wanted one, without losing a request
description:
  - A generation is a release with its settings, one supervisord process group whose configuration never changes. The move is,
    for a batch of ports at a time, to start the new process (it joins the port), to wait until its admin socket says that it is
    ready, to stop the old one, and to wait until it has drained. At the end C(current) points to the new generation, which is
    what starts at boot, and the old group is gone.
  - Whatever state an interrupted run left is taken from where it is.
  - When a new process does not get ready, every port is given back to the old generation, and the result holds the last lines
    of that process's log.
options:
  name: {type: str, required: true, description: Name of the application.}
  root: {type: path, required: true, description: Its directory on the host.}
  generation: {type: str, required: true, description: Name of the wanted generation.}
  release: {type: str, required: true, description: "Its release, which is on the host."}
  program: {type: str, required: true, description: The configuration of its process group.}
  settings: {type: dict, default: {}, description: Its environment.}
  secrets: {type: dict, default: {}, description: "More of its environment, in no log and no diff."}
  ports: {type: list, elements: int, required: true, description: "Its ports, a process each."}
  group: {type: str, required: true, description: The group that may read the settings.}
  sockets: {type: path, required: true, description: Directory of the admin sockets.}
  start_timeout: {type: int, default: 30, description: Seconds that a process has to get ready.}
  stop_timeout: {type: int, default: 60, description: "Seconds that a process has to leave; supervisord kills it before."}
  batch: {type: int, default: 1, description: How many ports change hands at once.}
  surplus:
    description: What becomes of old processes on ports that the wanted generation does not have. C(keep) lets them serve what
      nginx still sends them; they are returned as C(surplus), and C(stop), once nginx names them no more, ends them.
    type: str
    choices: [keep, stop]
    default: stop
  log_lines: {type: int, default: 20, description: How many lines of a failing process's log to return.}
"""

SOCKET = "unix:///run/supervisor.sock"
PROGRAMS = Path("/etc/supervisor/conf.d")
POLL_SECONDS = 0.05
GONE = {"STOPPED", "EXITED", "FATAL", "UNKNOWN"}
BROKEN = {"BACKOFF", "EXITED", "FATAL", "UNKNOWN"}


class Failure(Exception):  # noqa: N818 -- what went wrong on the host, in a sentence
    """A process did not do what it was told."""


def supervisord(timeout: float = 15) -> Any:
    """supervisord's RPC interface, once it answers: it may have been started a moment ago."""
    deadline = time.monotonic() + timeout
    while True:
        proxy = xmlrpc.client.ServerProxy("http://localhost", SupervisorTransport(None, None, SOCKET))
        try:
            proxy.supervisor.getState()
        except OSError as error:
            if time.monotonic() > deadline:
                raise Failure(f"supervisord does not answer on {SOCKET}: {error}.") from None
            time.sleep(POLL_SECONDS)
        else:
            return proxy.supervisor


def fault_is(fault: xmlrpc.client.Fault, name: str) -> bool:
    return bool(fault.faultCode == getattr(Faults, name))


def as_text(value: object) -> str:
    """A YAML scalar as an environment variable's text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


class Mover:
    """The move of one host."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.root = Path(params["root"])
        self.generation: str = params["generation"]
        self.ports: list[int] = params["ports"]
        self.link = self.root / "current"
        self.rpc = supervisord()
        self.report: dict[int, dict[str, Any]] = {}

    @property
    def current(self) -> str | None:
        return self.link.readlink().name if self.link.is_symlink() else None

    def states(self) -> dict[tuple[str, int], dict[str, Any]]:
        """What supervisord says of every process of this application, by generation and port."""
        own = {path.name for path in (self.root / "generations").glob("*")}
        return {
            (info["group"], int(info["name"])): info for info in self.rpc.getAllProcessInfo() if info["group"] in own
        }

    def state(self, group: str, port: int) -> str:
        info = self.states().get((group, port))
        return str(info["statename"]) if info else "STOPPED"

    def is_ready(self, group: str, port: int) -> bool:
        """Whether a process says that it is ready, and supervisord that it has stayed up (startsecs)."""
        if self.state(group, port) != "RUNNING":
            return False
        answer = ask(f"{self.params['sockets']}/{group}-{port}.sock", "/ready")
        return bool(answer and answer.get("state") == "ready" and answer.get("generation") == group)

    def can_start(self, group: str, port: int) -> bool:
        return self.state(group, port) != "STOPPING"

    def has_settled(self, group: str, port: int) -> bool:
        """Whether a process that was started is ready, or never will be."""
        return self.is_ready(group, port) or self.state(group, port) in BROKEN

    def others(self) -> list[str]:
        """Groups of this application that supervisord knows beside the wanted one."""
        return sorted({group for group, _ in self.states()} - {self.generation})

    def to_do(self) -> list[int]:
        """The ports on which the wanted generation does not answer yet."""
        return [port for port in self.ports if not self.is_ready(self.generation, port)]

    def surplus(self) -> list[str]:
        """Processes of other generations on ports that the wanted one does not have."""
        return sorted(
            f"{group}:{port}"
            for (group, port), info in self.states().items()
            if group != self.generation and port not in self.ports and info["statename"] not in GONE
        )

    def is_done(self) -> bool:
        if self.current != self.generation or self.to_do():
            return False
        surplus = set(self.surplus()) if self.params["surplus"] == "keep" else set()
        running = {f"{group}:{port}" for (group, port), info in self.states().items() if info["statename"] not in GONE}
        if running - surplus - {f"{self.generation}:{port}" for port in self.ports}:
            return False
        return set(self.others()) <= {name.partition(":")[0] for name in surplus}

    def write(self) -> None:
        """Write the generation, settings readable by the application alone; complete once it has its manifest."""
        place = self.root / "generations" / self.generation
        manifest = place / "generation.json"
        if not manifest.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            place.chmod(0o755)  # whatever the umask is: the application reads below it
            settings = place / "settings.json"
            settings.touch(mode=0o600)
            os.chown(settings, 0, grp.getgrnam(self.params["group"]).gr_gid)
            settings.chmod(0o640)
            environment = {
                name: as_text(value) for name, value in {**self.params["settings"], **self.params["secrets"]}.items()
            }
            settings.write_text(json.dumps(environment, indent=2, sort_keys=True) + "\n")
            (place / "supervisor.conf").write_text(self.params["program"])
            (place / "release").symlink_to(self.root / "releases" / self.params["release"])
            content = {"generation": self.generation, "release": self.params["release"], "ports": self.ports}
            unfinished = manifest.with_suffix(".part")
            unfinished.write_text(json.dumps(content))
            unfinished.rename(manifest)

    def add_group(self, group: str) -> None:
        """Make supervisord know a group, which starts nothing (autostart=false)."""
        program = PROGRAMS / f"{group}.conf"
        if not program.is_symlink():
            program.symlink_to(self.root / "generations" / group / "supervisor.conf")
        try:
            self.rpc.reloadConfig()
            self.rpc.addProcessGroup(group)
        except xmlrpc.client.Fault as fault:
            if not fault_is(fault, "ALREADY_ADDED"):
                program.unlink()
                raise Failure(f"supervisord does not take the group {group}: {fault.faultString}.") from None

    def remove_group(self, group: str) -> None:
        """Make supervisord forget a group of which nothing runs."""
        try:
            self.rpc.removeProcessGroup(group)
        except xmlrpc.client.Fault as fault:
            if not fault_is(fault, "BAD_NAME"):
                raise Failure(f"supervisord does not let go of the group {group}: {fault.faultString}.") from None
        (PROGRAMS / f"{group}.conf").unlink(missing_ok=True)

    def start(self, group: str, ports: list[int]) -> None:
        """Start processes, and wait until each says that it is ready. Raises Failure for one that does not."""
        begun = time.monotonic()
        for port in ports:
            # supervisord does not start a process that it is stopping, and does not say so
            until(partial(self.can_start, group, port), self.params["stop_timeout"])
            try:
                self.rpc.startProcess(f"{group}:{port}", False)
            except xmlrpc.client.Fault as fault:
                if not fault_is(fault, "ALREADY_STARTED"):
                    raise Failure(
                        f"{group}:{port} does not start: {fault.faultString}.{self.log(group, port)}"
                    ) from None
        for port in ports:
            until(partial(self.has_settled, group, port), self.params["start_timeout"])
            if not self.is_ready(group, port):
                state = self.state(group, port)
                why = "ended" if state in BROKEN else f"was not ready within {self.params['start_timeout']} s"
                raise Failure(f"{group}:{port} {why} (supervisord: {state}).{self.log(group, port)}")
            if group == self.generation:
                self.report.setdefault(port, {})["ready_seconds"] = round(time.monotonic() - begun, 2)

    def stop(self, group: str, ports: list[int]) -> None:
        """Tell processes to leave, and wait until they have: they answer what they have, then go."""
        begun = time.monotonic()
        ports = [port for port in ports if self.state(group, port) not in GONE]
        for port in ports:
            try:
                self.rpc.stopProcess(f"{group}:{port}", False)
            except xmlrpc.client.Fault as fault:
                if not (fault_is(fault, "NOT_RUNNING") or fault_is(fault, "BAD_NAME")):
                    raise Failure(f"{group}:{port} does not stop: {fault.faultString}.") from None
        waiting = list(ports)

        def left() -> bool:
            for port in [port for port in waiting if self.state(group, port) in GONE]:
                waiting.remove(port)
                # a port that the wanted generation does not have is reported by its process's own name
                times = self.report.setdefault(port, {} if port in self.ports else {"process": f"{group}:{port}"})
                times["drained_seconds"] = round(time.monotonic() - begun, 2)
            return not waiting

        if not until(left, self.params["stop_timeout"]):
            raise Failure(
                f"{group}:{waiting[0]} still runs {self.params['stop_timeout']} s after it was told to leave."
            )

    def log(self, group: str, port: int) -> str:
        """The last lines of a process's log, for a message."""
        try:
            text = self.rpc.readProcessStdoutLog(f"{group}:{port}", -16384, 0)
        except xmlrpc.client.Fault:
            return ""
        lines = text.strip().splitlines()[-self.params["log_lines"] :]
        return " The last lines of its log:\n" + "\n".join(lines) if lines else " Its log is empty."

    def batches(self, ports: list[int]) -> Iterator[list[int]]:
        for first in range(0, len(ports), self.params["batch"]):
            yield ports[first : first + self.params["batch"]]

    def move(self) -> None:
        """Take the host to the wanted generation, or leave it where it was and raise Failure."""
        old = self.current if self.current != self.generation else None
        self.write()
        try:
            self.add_group(self.generation)
            for ports in self.batches(self.ports):
                self.start(self.generation, ports)
                for group in self.others():
                    self.stop(group, ports)
        except Failure as failure:
            try:
                self.restore(old)
            except Failure as second:
                raise Failure(f"{failure}\nGoing back to {old} failed too: {second}") from None
            raise
        keep = self.params["surplus"] == "keep"
        for group in self.others():
            self.stop(
                group,
                [port for other, port in self.states() if other == group and (port in self.ports or not keep)],
            )
        # what starts at boot changes in one step (rename(2))
        unfinished = self.root / "current.part"
        unfinished.unlink(missing_ok=True)
        unfinished.symlink_to(Path("generations", self.generation))
        unfinished.rename(self.link)
        # in the order in which they were current, tornado_app_prune keeps the last ones
        (self.link / "generation.json").touch()
        for group in set(self.others()) - {name.partition(":")[0] for name in self.surplus()}:
            self.remove_group(group)

    def restore(self, old: str | None) -> None:
        """Give every port back to the generation that was current, the same way."""
        if old is None and self.current is not None:
            return  # what failed is the current generation itself: there is nothing else to go back to
        if old:
            ports = json.loads((self.root / "generations" / old / "generation.json").read_text())["ports"]
            self.add_group(old)
            self.start(old, ports)
        for group in {self.generation, *self.others()} - {old}:
            self.stop(group, [port for other, port in self.states() if other == group])
            self.remove_group(group)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "generation": {"type": "str", "required": True},
            "release": {"type": "str", "required": True},
            "program": {"type": "str", "required": True},
            "settings": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "ports": {"type": "list", "elements": "int", "required": True},
            "group": {"type": "str", "required": True},
            "sockets": {"type": "path", "required": True},
            "start_timeout": {"type": "int", "default": 30},
            "stop_timeout": {"type": "int", "default": 60},
            "batch": {"type": "int", "default": 1},
            "surplus": {"type": "str", "choices": ["keep", "stop"], "default": "stop"},
            "log_lines": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    wanted = module.params["generation"]
    if module.check_mode and (SupervisorTransport is None or not Path(module.params["root"]).exists()):
        module.exit_json(changed=True, diff={"before": "", "after": f"{wanted}\n"})
    if SupervisorTransport is None:
        module.fail_json(msg="This host has no supervisor; the role supervisord installs it.")
    try:
        mover = Mover(module.params)
        before = mover.current
        changed = not mover.is_done()
        if changed and not module.check_mode:
            mover.move()
        surplus = mover.surplus()
    except Failure as failure:
        module.fail_json(msg=str(failure))
    module.exit_json(
        changed=changed,
        generation=wanted,
        surplus=surplus,
        processes=[{"process": f"{wanted}:{port}", **times} for port, times in sorted(mover.report.items())],
        diff={"before": f"{before or ''}\n", "after": f"{wanted}\n"},
    )


if __name__ == "__main__":
    main()
