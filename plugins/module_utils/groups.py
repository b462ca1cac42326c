"""The application's generations on a host: their directories, and their process groups in supervisord."""

from __future__ import annotations

import http.client
import time
import xmlrpc.client
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.module_utils.admin import ask
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import (
    GENERATION,
    SETTINGS,
    Damaged,
    Layout,
    link,
    read,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.root import POLL_SECONDS, Failure, program, until
from ansible_collections.eyewall.tornado.plugins.module_utils.strangers import Watch
from ansible_collections.eyewall.tornado.plugins.module_utils.text import shown, tail

try:
    from supervisor.xmlrpc import Faults, SupervisorTransport
except ImportError:  # a bare host in check mode
    SupervisorTransport = None

SOCKET = "unix:///run/supervisor.sock"
# How long a process that drains may say nothing, before it has its signal all the same.
SILENT_SECONDS = 5.0
GONE = {"STOPPED", "EXITED", "FATAL", "UNKNOWN"}
RUNNING = {"STARTING", "RUNNING", "BACKOFF"}
BROKEN = {"BACKOFF", "EXITED", "FATAL", "UNKNOWN"}


def has_supervisor() -> bool:
    return SupervisorTransport is not None


class Supervisord:
    """supervisord's RPC interface. That it is gone, or about to go, is a Failure; every other fault is the caller's."""

    def __init__(self) -> None:
        self._proxy = xmlrpc.client.ServerProxy("http://localhost", SupervisorTransport(None, None, SOCKET))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._proxy.supervisor, name)

        def call(*arguments: object) -> Any:
            try:
                return method(*arguments)
            except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
                raise Failure(f"supervisord does not answer on {SOCKET}: {error}.") from None
            except xmlrpc.client.Fault as fault:
                if fault_is(fault, "SHUTDOWN_STATE"):
                    raise Failure("supervisord is shutting down.") from None
                raise

        return call


def supervisord(timeout: float = 15) -> Supervisord:
    """supervisord's RPC interface, once it answers: it may have been started a moment ago."""
    deadline = time.monotonic() + timeout
    while True:
        found = Supervisord()
        try:
            found.getState()
        except Failure:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return found


def watch(rpc: Supervisord, user: str, ports: Iterable[int], survivors: Iterable[str]) -> Watch:
    """What looks for processes of an account that supervisord does not know, and for others on ports."""

    def known() -> dict[int, str]:
        return {info["pid"]: f"{info['group']}:{info['name']}" for info in rpc.getAllProcessInfo() if info["pid"]}

    return Watch(user, rpc.getPID(), known, ports, survivors)


def fault_is(fault: xmlrpc.client.Fault, name: str) -> bool:
    return bool(fault.faultCode == getattr(Faults, name))


def lives(pid: int) -> bool:
    """Whether a process is there, and more than its exit status that nobody has taken yet (proc(5))."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


class Groups:
    """The process groups of one application. `params` are a module's: root, sockets, the two timeouts, log_lines."""

    def __init__(self, params: dict[str, Any]) -> None:
        self.params = params
        self.root = Path(params["root"])
        self.layout = Layout(self.root)
        self.rpc = supervisord()
        self.left_early: list[str] = []  # processes that were asked to drain, and left before they had

    @property
    def current(self) -> str | None:
        """Name of the generation that starts at boot."""
        return self.layout.current_generation()

    def place(self, generation: str) -> Path:
        return self.layout.place(GENERATION, generation)

    def manifest(self, generation: str) -> dict[str, Any]:
        """What a generation's manifest says. Raises Damaged where it is not whole."""
        return self.layout.manifest(GENERATION, generation)

    def states(self) -> dict[tuple[str, int], dict[str, Any]]:
        """What supervisord says of every process of this application, by group and port."""
        # the current one also if its directory is gone: its processes may run on
        own = {*self.layout.names(GENERATION), self.current}
        return {
            (info["group"], int(info["name"])): info
            for info in self.rpc.getAllProcessInfo()
            if info["group"].removesuffix("-proof") in own
        }

    def state(self, group: str, port: int) -> str:
        info = self.states().get((group, port))
        return str(info["statename"]) if info else "STOPPED"

    def is_ready(self, group: str, port: int) -> bool:
        """Whether the process that supervisord has started says that it is ready.

        It may still be STARTING for supervisord, which lets startsecs pass whatever a process says; how long a new one has to
        stay ready before it takes over is min_ready_seconds of the handover.
        """
        info = self.states().get((group, port))
        if info is None or info["statename"] not in {"STARTING", "RUNNING"}:
            return False
        answer = self.readiness(group, port) or {}
        expected = ("ready", group.removesuffix("-proof"), info["pid"])
        return (answer.get("state"), answer.get("generation"), answer.get("pid")) == expected

    def admin(self, group: str, port: int) -> str:
        """The path of a process's admin socket."""
        return f"{self.params['sockets']}/{group}-{port}.sock"

    def readiness(self, group: str, port: int) -> dict[str, Any] | None:
        """What a process says of its readiness; None where it says nothing."""
        return ask(self.admin(group, port), "/ready")

    def pid(self, group: str, port: int) -> int | None:
        info = self.states().get((group, port))
        return info["pid"] if info else None

    def can_start(self, group: str, port: int) -> bool:
        return self.state(group, port) != "STOPPING"

    def has_settled(self, group: str, port: int) -> bool:
        """Whether a process that was started is ready, or never will be."""
        return self.is_ready(group, port) or self.state(group, port) in BROKEN

    def add_group(self, group: str, conf: Path) -> None:
        """Make supervisord know a group, which starts nothing (autostart=false)."""
        file = program(group)
        if not (file.is_symlink() and file.readlink() == conf):
            link(file, conf)
        try:
            self.rpc.reloadConfig()
            self.rpc.addProcessGroup(group)
        except xmlrpc.client.Fault as fault:
            if not fault_is(fault, "ALREADY_ADDED"):
                file.unlink()
                raise Failure(f"supervisord does not take the group {group}: {fault.faultString}.") from None

    def remove_group(self, group: str) -> None:
        """Make supervisord forget a group of which nothing runs."""
        try:
            self.rpc.removeProcessGroup(group)
        except xmlrpc.client.Fault as fault:
            if not fault_is(fault, "BAD_NAME"):
                raise Failure(f"supervisord does not let go of the group {group}: {fault.faultString}.") from None
        program(group).unlink(missing_ok=True)

    def start(self, group: str, ports: list[int]) -> dict[int, float]:
        """Start processes; the seconds until each said that it is ready. Raises Failure for one that does not."""
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
        seconds = {}
        for port in ports:
            until(partial(self.has_settled, group, port), self.params["start_timeout"])
            if not self.is_ready(group, port):
                state = self.state(group, port)
                why = "ended" if state in BROKEN else f"was not ready within {self.params['start_timeout']} s"
                raise Failure(f"{group}:{port} {why} (supervisord: {state}).{self.log(group, port)}")
            seconds[port] = round(time.monotonic() - begun, 2)
        return seconds

    def stop(self, group: str, ports: list[int]) -> dict[int, float]:
        """Let processes leave; the seconds until each had: they answer what they have, then go.

        A process is asked to drain on its admin socket, and has its signal when it has drained. The signal alone may never
        reach the runner: a program takes it with sigwait(3), blocks it, or has a handler that is not Python's.
        """
        begun = time.monotonic()
        waiting = [port for port in ports if self.state(group, port) not in GONE]
        drains = {port: pid for port in waiting if (pid := self.ask_to_drain(group, port))}
        heard = dict.fromkeys(drains, time.monotonic())
        for port in waiting:
            if port not in drains:
                self.tell(group, port)
        seconds = {}

        def left() -> bool:
            for port, pid in list(drains.items()):
                answer = self.readiness(group, port)
                if lives(pid):
                    if answer and answer["pid"] == pid:
                        heard[port] = time.monotonic()
                    silent = time.monotonic() - heard[port] > SILENT_SECONDS
                    if not silent and not (answer and answer["state"] == "drained"):
                        continue
                else:
                    self.left_early.append(f"{group}:{port}")
                del drains[port]
                self.tell(group, port)
            for port in [port for port in waiting if port not in drains]:
                state = self.state(group, port)
                # supervisord starts what ended by itself again, but no proof, and stops nothing that it has not started yet
                restarts = f"{group}:{port}" in self.left_early and not group.endswith("-proof")
                if state in GONE and not (state == "EXITED" and restarts):
                    waiting.remove(port)
                    seconds[port] = round(time.monotonic() - begun, 2)
                elif state in RUNNING:
                    self.tell(group, port)
            return not waiting

        if not until(left, self.params["stop_timeout"]):
            raise Failure(
                f"{group}:{waiting[0]} still runs {self.params['stop_timeout']} s after it was told to leave "
                f"(supervisord: {self.state(group, waiting[0])})."
            )
        return seconds

    def ask_to_drain(self, group: str, port: int) -> int | None:
        """Ask a process to drain; its PID, None if it does not: it drains on its signal, or not at all."""
        pid = self.pid(group, port)
        answer = ask(self.admin(group, port), "/drain", timeout=SILENT_SECONDS, method="POST")
        if pid and not answer and not lives(pid):
            self.left_early.append(f"{group}:{port}")
        return pid if answer and answer["state"] in ("draining", "drained") and answer["pid"] == pid else None

    def tell(self, group: str, port: int) -> None:
        """Send a process its signal to leave (supervisord's stopsignal)."""
        try:
            self.rpc.stopProcess(f"{group}:{port}", False)
        except xmlrpc.client.Fault as fault:
            if not (fault_is(fault, "NOT_RUNNING") or fault_is(fault, "BAD_NAME")):
                raise Failure(f"{group}:{port} does not stop: {fault.faultString}.") from None

    def secrets(self, generation: str) -> list[str]:
        """Values of a generation's environment that nobody is to read."""
        names = self.manifest(generation).get("secrets", [])
        environment = read(self.place(generation) / SETTINGS, dict.fromkeys(names, str))
        return [environment[name] for name in names]

    def log(self, group: str, port: int) -> str:
        """The last lines of a process's log, for a message.

        Of the file itself: supervisord's RPC is XML, and one control character in a log makes all of an answer unreadable.
        """
        info = self.states().get((group, port))
        if info is None:
            return ""
        time.sleep(0.2)  # supervisord writes down what a process says a moment after it was said
        try:
            said, secrets = tail(Path(info["stdout_logfile"])), self.secrets(group.removesuffix("-proof"))
        except OSError as error:
            return f" Its log cannot be read: {error}."
        except Damaged as damage:
            return f" Its log is not shown, for what is secret in it is not known: {damage}"
        text = shown(said, secrets, self.params["log_lines"])
        return f" The last lines of its log:\n{text}" if text else " Its log is empty."
