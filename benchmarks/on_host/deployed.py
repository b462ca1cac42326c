"""What the roles deployed on this host, found from the host itself (docs/host-layout.md)."""

import itertools
import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from results import version


@dataclass(frozen=True)
class Deployed:
    """An application as it runs: what is current, and who runs it.

    `settings` are its environment, secrets included: to be handed on as an environment and nowhere else.
    `pids` are its processes in the order of `ports`; `uid`, `gid` and `cwd` are theirs.
    """

    release: Path
    settings: dict[str, str]
    ports: list[int]
    pids: list[int]
    uid: int
    gid: int
    cwd: Path
    nginx_port: int
    nginx_pid: int

    @property
    def python(self) -> Path:
        return self.release / "venv" / "bin" / "python"

    @property
    def static(self) -> Path:
        """The current static files, as nginx has them."""
        return self.release / "static"

    @property
    def entry(self) -> str:
        """The factory, as in board.bench_app:make_app."""
        return str(read(self.release / "manifest.json")["entry"])


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def find() -> Deployed:
    """Return the one application of this host. Raises ValueError with a sentence where there is not just one."""
    generations = {link.resolve().parent for link in Path("/etc/supervisor/conf.d").glob("*.conf") if link.is_symlink()}
    current = {generation.parent.parent / "current" for generation in generations}
    if len(current) != 1:
        raise ValueError(
            f"{len(current)} applications are deployed on this host; a benchmark needs the one of benchmarks/application.py"
        )
    generation = current.pop().resolve()
    ports = read(generation / "generation.json")["ports"]
    pids = [pid_on(generation.name, port) for port in ports]
    owner = Path(f"/proc/{pids[0]}").stat()
    nginx = subprocess.run(["nginx", "-T"], check=True, capture_output=True, text=True).stdout
    return Deployed(
        release=(generation / "release").resolve(),
        settings=read(generation / "settings.json"),
        ports=ports,
        pids=pids,
        uid=owner.st_uid,
        gid=owner.st_gid,
        cwd=Path(found_in((generation / "supervisor.conf").read_text(encoding="utf-8"), r"^directory=(.+)$")),
        nginx_port=int(found_in(nginx, r"^\s*listen (\d+)")),
        nginx_pid=int(Path("/run/nginx.pid").read_text(encoding="utf-8")),
    )


def found_in(text: str, line: str) -> str:
    """Return the group of the first line that matches `line`. ValueError if none does."""
    match = re.search(line, text, re.MULTILINE)
    if match is None:
        raise ValueError(f"no line {line!r} in what configures this host")
    return match[1]


def pid_on(generation: str, port: int) -> int:
    """Return the process of `generation` on `port`. ValueError if there is none."""
    wanted = {("--generation", generation), ("--port", str(port))}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = command_line(int(place.name))
        except OSError:  # it has ended since
            continue
        if wanted <= set(itertools.pairwise(words)):
            return int(place.name)
    raise ValueError(f"no process of {generation} runs on port {port}")


def command_line(pid: int) -> list[str]:
    """Return the words that a process was started with."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").removesuffix("\0").split("\0")


def versions(deployed: Deployed) -> dict[str, str]:
    """Return the versions of nginx, and of Tornado and Python in the release."""
    tornado = "import tornado; print(tornado.version)"
    return {
        "nginx": version("nginx", "-v"),
        # -P: not whatever lies in the directory where this is run
        "tornado": version(str(deployed.python), "-P", "-c", tornado),
        "python": version(str(deployed.python), "-V"),
    }
