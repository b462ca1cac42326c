"""Runs commands in a container as `podman exec` does, in 0.01 s instead of a third of a second.

Tests ask hosts some thousand times, and again and again while they wait: podman took a tenth of what molecule's scenarios need
of two cores.
"""

import os
import subprocess
from pathlib import Path

import testinfra
from testinfra.backend.base import CommandResult
from testinfra.backend.podman import PodmanBackend

# As podman has it
ENVIRONMENT = "HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin container=podman"


class InsideBackend(PodmanBackend):  # type: ignore[misc]
    """testinfra's connection to a container of this machine: its namespaces, entered by root; podman's own for other users."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._init = (0, b"")

    def run(self, command: str, *args: str, **kwargs: object) -> CommandResult:
        """Run a shell command in the container, with each %s in it replaced by an argument that is quoted."""
        init = self.init()
        if not init:
            return super().run(command, *args, **kwargs)  # which says what is wrong
        text = self.get_command(command, *args)
        done = self.run_local(
            f"env --ignore-environment {ENVIRONMENT} nsenter --target {init} --all /bin/sh -c %s", text
        )
        done.command = self.encode(text)
        return done

    def init(self) -> int:
        """Return the PID of the container's init on this machine, or 0 where there is none to be entered."""
        pid, began = self._init
        if not pid or began != started(pid):
            words = ["podman", "inspect", "--format", "{{.State.Pid}}", self.name]
            said = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
            pid = int(said) if said and os.geteuid() == 0 else 0
            self._init = (pid, started(pid))
        return pid


def started(pid: int) -> bytes:
    """When a process began, in the kernel's own unit; nothing where it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]
    except OSError:
        return b""


def inside(container: str) -> testinfra.host.Host:
    """Give testinfra's view of a container."""
    return testinfra.host.Host(InsideBackend(container))
