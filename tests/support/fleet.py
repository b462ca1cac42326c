"""A fleet of containers with the test application: its front doors, its playbooks, new releases of it."""

import contextlib
import http.client
import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import testinfra
import yaml

from support import REPOSITORY
from support.inside import inside
from support.release import write_release
from support.waiting import until

# what the role fleet wrote for podman, where this machine needs it
if (SETTINGS := REPOSITORY / ".local" / "containers.conf").exists():
    os.environ.setdefault("CONTAINERS_CONF", str(SETTINGS))

# What a host has of the application (APP), asked in one go: a command in a container takes a third of a second.
LOOK = """
import http.client, json, pathlib, socket, subprocess
root = pathlib.Path("/opt/APP")
def out(*words):
    return subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
def ready(path):
    try:
        connection = http.client.HTTPConnection("localhost", timeout=5)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("GET", "/ready")
        return json.loads(connection.getresponse().read())
    except OSError:
        return {}  # a process that was killed leaves its socket
programs = sorted(path.stem for path in pathlib.Path("/etc/supervisor/conf.d").iterdir())
# what somebody else has there (molecule/modes), and another application (molecule/apps)
others = {name for name in programs if not name.startswith("eyewall-app-APP-")}
status = [line.split() for line in out("supervisorctl", "-c", "/etc/supervisor/supervisord.conf", "status")]
status = [words for words in status if words[0].partition(":")[0] not in {name.removeprefix("eyewall-app-") for name in others}]
running = {words[0]: int(words[3].rstrip(",")) for words in status if words[2:3] == ["pid"]}
manifests = {"releases": "release.json", "environments": "environment.json", "generations": "generation.json"}
print(json.dumps({
    "generation": (root / "current").readlink().name,
    "release": json.loads((root / "current" / "generation.json").read_text())["release"],
    "ports": json.loads((root / "current" / "generation.json").read_text())["ports"],
    "pids": running,
    "states": {words[0]: words[1] for words in status},
    # but those that a process has started, as a pool
    "accounts": sorted(set(map(int, out("pgrep", "-u", "APP"))) - {
        int(pid) for parent in running.values() for pid in out("pgrep", "-P", str(parent))
    }),
    "programs": sorted({*programs} - others),
    "answers": {path.stem: said for path in pathlib.Path("/run/APP").glob("*.sock") if (said := ready(path).get("state"))},
    "unfinished": sorted(str(path) for pattern in ("*.tar", "*.part", "*/*.part") for path in root.glob(pattern))
        + [str(path) for kind in manifests for path in (root / kind).iterdir()
           if path.name[0] == "." or not (path / manifests[kind]).exists()],
    "locked": (root / "deploy.json").exists(),
}))
"""


@dataclass(frozen=True)
class Standing:
    """What a host runs when nothing is under way: `pids` by port."""

    generation: str
    release: str
    pids: dict[int, int]


@dataclass(frozen=True)
class Run:
    """What a playbook said. `text` has its white space collapsed, so that a sentence is found however it was wrapped."""

    status: int
    output: str

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", self.output)

    def changed(self) -> int:
        """How many tasks changed something, on all hosts."""
        return sum(int(number) for number in re.findall(r"changed=(\d+)", self.output))

    def changes(self) -> set[tuple[str, str]]:
        """Which tasks changed something, and on which host."""
        found, task = set(), ""
        for line in self.output.splitlines():
            if heading := re.match(r"(?:TASK|RUNNING HANDLER) \[(.*)\] \**$", line):
                task = heading[1]
            elif host := re.match(r"changed: \[(\w+)", line):
                found.add((task, host[1]))
        return found


class Fleet:
    """The hosts of an inventory below molecule/inventory, and one application on them.

    Where there are several, `app` is its name, and `name` the one by which it is asked.
    """

    patience = 300  # seconds that a playbook may take

    def __init__(self, scenario: str, scratch: Path, app: str = "testapp", name: str = "127.0.0.1") -> None:
        self.app = app
        self.inventory = REPOSITORY / "molecule" / "inventory" / f"{scenario}.yml"
        self.scratch = scratch
        content = yaml.safe_load(self.inventory.read_text(encoding="utf-8"))
        self.name: str = content["all"]["vars"]["local_containers_name"]
        hosts = {**content["balancers"].get("hosts", {}), **content["testapp"]["hosts"]}
        self.hosts = list(content["testapp"]["hosts"])
        self.doors = {
            "balancer" if host == "lb1" else host: f"http://{name}:{publish.split(':')[1]}"
            for host, variables in hosts.items()
            for publish in variables["local_containers_publish"]
        }

    def start(self, playbook: str, *arguments: str, **variables: Any) -> "subprocess.Popen[str]":
        """Start a playbook as a user types it. It is the leader of a process group, so that a test can kill it all."""
        words = ["ansible-playbook", f"playbooks/{playbook}.yml" if playbook != "site" else "site.yml"]
        words += ["-i", str(self.inventory), *arguments]
        words += ["-e", json.dumps(variables)] if variables else []
        environment = {key: value for key, value in os.environ.items() if not key.startswith(("ANSIBLE_", "MOLECULE_"))}
        # A test that waits for a line of it gets the line when it is written, and a task's heading when the task begins:
        # where skipped hosts are not shown, Ansible waits for the first result (ansible-core 2.19's callback default).
        environment |= {"PYTHONUNBUFFERED": "1", "ANSIBLE_DISPLAY_SKIPPED_HOSTS": "true"}
        return subprocess.Popen(
            words, cwd=REPOSITORY, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip

    def play(self, playbook: str, *arguments: str, **variables: Any) -> Run:
        """Run a playbook to its end."""
        return self.ended(self.start(playbook, *arguments, **variables))

    def ended(self, process: "subprocess.Popen[str]") -> Run:
        """Wait until a playbook has ended."""
        output, _ = process.communicate(timeout=self.patience)
        return Run(process.returncode, output)

    def release(self, name: str, change: Callable[[Path], None] | None = None) -> dict[str, str]:
        """The variables of a new release `name` of the test application; `change` breaks its source."""
        source = write_release(name, self.scratch / name)
        if change:
            change(source)
        return {"tornado_app_source": str(source), "tornado_app_version": name}

    def deploy(self, name: str, *, change: Callable[[Path], None] | None = None, **variables: Any) -> Run:
        """Deploy a new release."""
        return self.play("deploy", **self.release(name, change), **variables)

    def container(self, host: str) -> str:
        return f"{self.name}-{host}"

    def host(self, host: str) -> testinfra.host.Host:
        return inside(self.container(host))

    def sh(self, host: str, command: str, *arguments: object) -> str:
        """What a command prints on a host; each %s in it is an argument, quoted for the shell."""
        output: str = self.host(host).check_output(command, *map(str, arguments))
        return output

    def releases(self) -> dict[str, str]:
        """The release that is current on each host."""
        return {
            host: json.loads(self.sh(host, f"cat /opt/{self.app}/current/generation.json"))["release"]
            for host in self.hosts
        }

    def records(self, host: str) -> list[dict[str, Any]]:
        """The deploys that a host remembers, oldest first."""
        return [json.loads(line) for line in self.sh(host, f"cat /opt/{self.app}/deploys.jsonl").splitlines()]

    def stand(self, host: str) -> Standing:
        """What a host runs.

        Fails unless that is its current generation and nothing else, whole, ready, and without a trace of a change that
        did not come to its end.
        """
        seen = json.loads(self.sh(host, "python3 -c %s", LOOK.replace("APP", self.app)))
        wanted = {f"{seen['generation']}:{port}": "RUNNING" for port in seen["ports"]}
        assert seen["states"] == wanted, f"{host}: {seen}"
        assert seen["programs"] == [f"eyewall-app-{seen['generation']}"], f"{host}: {seen}"
        assert seen["accounts"] == sorted(seen["pids"].values()), f"{host}: a process that supervisord lost: {seen}"
        assert seen["answers"] == {name.replace(":", "-"): "ready" for name in wanted}, f"{host}: {seen}"
        assert seen["unfinished"] == [], f"{host}: {seen}"
        assert not seen["locked"], f"{host}: {seen}"
        pids = {int(name.rpartition(":")[2]): pid for name, pid in seen["pids"].items()}
        return Standing(seen["generation"], seen["release"], pids)

    def settle(self, host: str, seconds: float = 60) -> Standing:
        """The same, once it is so."""

        def whole() -> Standing | None:
            with contextlib.suppress(AssertionError):
                return self.stand(host)
            return None

        try:
            found: Standing = until(whole, f"{host} to be whole", seconds)
        except AssertionError:
            return self.stand(host)  # which says what is not
        return found

    def stands(self) -> dict[str, Standing]:
        """The same of every host."""
        return {host: self.stand(host) for host in self.hosts}

    def deaths(self, host: str, since: float) -> list[float]:
        """When processes died, also while they were being stopped, in seconds since the epoch, as supervisord noted it."""
        lines = self.sh(host, "cat /var/log/supervisor/supervisord.log").splitlines()
        times = [
            datetime.strptime(f"{line[:23]}+0000", "%Y-%m-%d %H:%M:%S,%f%z").timestamp()
            for line in lines
            if re.search(r"exited: .*; not expected|stopped: .*\(exit status [1-9]", line)
        ]
        return [time for time in times if time >= since]

    def processes(self, host: str) -> dict[str, int]:
        """PID of each running process of the application, by the name that supervisord has for it."""
        lines = self.host(host).run("supervisorctl -c /etc/supervisor/supervisord.conf status").stdout.splitlines()
        return {
            words[0]: int(words[3].rstrip(","))
            for words in (line.split() for line in lines)
            if words[1] == "RUNNING"  # one that is starting is listed without a PID
        }


def ask(door: str, path: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer that may take its time."""
    parts = urlsplit(door)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=60)
    with contextlib.closing(connection):
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
