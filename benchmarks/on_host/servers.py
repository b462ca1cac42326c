"""Servers to compare with: the application on bare Tornado, and nginx as Tornado's guide has it."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from deployed import Deployed, command_line
from ports import free_port

LOOPBACK = "127.0.0.1"
START_SECONDS = 20
NGINX = Path("/etc/nginx/nginx.conf")  # what the roles wrote
INCLUDE = "include /etc/nginx/eyewall-app-*.conf;"
RECIPE = Path(__file__).with_name("recipe.conf")  # the nginx file of Tornado's guide


class Servers:
    """Starts servers on loopback; they end with the `with` block."""

    def __init__(self, deployed: Deployed) -> None:
        self.deployed = deployed
        self._started = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._started.close()

    def tornado(self, *words: str, port: int | None = None) -> tuple[int, int]:
        """Start bare.py with `words`, as the application's account and with its settings; return its port and pid.

        The account cannot read our directory, so it gets the program as its standard input.
        """
        deployed = self.deployed
        port = port or free_port()
        with Path(__file__).with_name("bare.py").open(encoding="utf-8") as program:
            command = [str(deployed.python), "-P", "-", deployed.entry, "--port", str(port), *words]
            return port, self._as_the_application(command, port, deployed.settings, program)

    def runner(self, *words: str) -> int:
        """Start one more of the deployed processes, with `words` after its own; return its port."""
        port, given = free_port(), command_line(self.deployed.pids[0])
        for option in ("--port", "--admin", "--generation"):
            del given[(at := given.index(option)) : at + 2]
        # its last word is the factory
        self._as_the_application([*given[:-1], "--port", str(port), *words, given[-1]], port, {})
        return port

    def _as_the_application(
        self, command: list[str], port: int, settings: Mapping[str, str], program: IO[str] | None = None
    ) -> int:
        deployed = self.deployed
        process = subprocess.Popen(
            command,
            stdin=program,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1", **settings},
            cwd=deployed.cwd,
            user=deployed.uid,
            group=deployed.gid,
            extra_groups=[],
            process_group=0,
        )
        self._started.callback(stop, process)
        wait_for(port, process)
        return process.pid

    def recipe(self, ports: list[int], *, gzip_scripts: bool = False) -> tuple[int, int]:
        """Start the guide's nginx before Tornado on `ports`; return its port and pid.

        With `gzip_scripts` it compresses application/javascript too: Debian's name for scripts, which the guide's
        list does not have.
        """
        place, port = self._started.enter_context(tempfile.TemporaryDirectory()), free_port()
        text = RECIPE.read_text(encoding="utf-8").format(
            name="recipe",
            logs=place,
            run=place,
            listen=f"{LOOPBACK}:{port}",
            upstreams=" ".join(f"server {LOOPBACK}:{upstream};" for upstream in ports),
            root=self.deployed.static.parent,
            more_types=" application/javascript" if gzip_scripts else "",
        )
        return port, self._nginx(text, Path(place), port)

    def changed(self, change: Mapping[str, str]) -> tuple[int, int]:
        """Start the deployed nginx once more, with lines changed; return its port and pid.

        `change` has what stands in the place of a regular expression. ValueError if there is nothing that it matches.
        """
        place, port = self._started.enter_context(tempfile.TemporaryDirectory()), free_port()
        moved = {
            r"^(\s*)listen \d+ .*;": rf"\1listen {LOOPBACK}:{port};",
            r"^\s*listen \[::\]:.*;": "",
            r"^pid .*;": f"pid {place}/nginx.pid;",
            r"^(\s*access_log) \S+": rf"\1 {place}/access.log",
            r"^error_log .*;": f"error_log {place}/error.log;",
        }
        text = replaced(nginx_conf(), moved | dict(change))
        return port, self._nginx(text, Path(place), port)

    def _nginx(self, text: str, place: Path, port: int) -> int:
        file = place / "nginx.conf"
        file.write_text(text, encoding="utf-8")
        process = subprocess.Popen(["nginx", "-c", file, "-g", "daemon off;"], process_group=0)
        self._started.callback(stop, process)
        wait_for(port, process)
        return process.pid


def nginx_conf() -> str:
    """Return the configuration that the roles wrote, with the applications' parts in the place where they are included."""
    parts = "".join(path.read_text(encoding="utf-8") for path in sorted(NGINX.parent.glob("eyewall-app-*.conf")))
    return NGINX.read_text(encoding="utf-8").replace(INCLUDE, parts)


def replaced(text: str, change: Mapping[str, str]) -> str:
    """Replace what regular expressions match in lines. ValueError if one matches nothing."""
    for pattern, by in change.items():
        text, count = re.subn(pattern, by, text, flags=re.MULTILINE)
        if not count:
            raise ValueError(f"{NGINX} has nothing that matches {pattern!r}")
    return text


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a server, which leads a process group, and its children: a forked Tornado's parent leaves them behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until `process` listens on `port`. RuntimeError if it ends, TimeoutError after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket() as probe:
            if not probe.connect_ex((LOOPBACK, port)):
                return
        if process.poll() is not None:
            raise RuntimeError(f"{process.args!r} ended with status {process.returncode} before it listened")
        if time.monotonic() > deadline:
            raise TimeoutError(f"{process.args!r} does not listen on port {port} after {START_SECONDS} s")
        time.sleep(0.05)
