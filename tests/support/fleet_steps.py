"""What a step of this scenario is: what there was before it, what was run, what became of the traffic, what there is."""

import http.client
import json
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from proof import Report

from support.fleet import Fleet, Run

# Tells what there is on a host, as JSON, in one go: a command in a container takes a third of a second. Times are Unix times.
LOOK = """
import json, os, subprocess, time
from pathlib import Path

BOOT = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

def started(pid):
    # proc_pid_stat(5), field 22, in ticks since boot
    return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")

def alive(processes):
    for name, pid in processes.items():
        try:
            yield name, pid, BOOT + started(pid)
        except OSError:
            pass  # it has ended since it was listed: a deploy may be under way

def doors():
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if (name := (place / "comm").read_text().strip()) in ("nginx", "haproxy"):
                yield f"{name} {place.name} {started(place.name)}"
        except OSError:
            pass  # the same

look = {"doors": sorted(doors())}
root = Path("/opt/testapp")
if root.exists():
    words = ["supervisorctl", "-c", "/etc/supervisor/supervisord.conf", "status"]
    status = subprocess.run(words, capture_output=True, text=True).stdout.splitlines()
    listed = {words[0]: int(words[3].rstrip(",")) for words in map(str.split, status) if words[1] == "RUNNING"}
    running = list(alive(listed))
    manifest = json.loads((root / "current/generation.json").read_text())
    staged = [path for kind in ("releases", "environments", "static") for path in (root / kind).iterdir()]
    look |= {
        "generation": manifest["generation"],
        "release": manifest["release"],
        "settings": json.loads((root / "current/settings.json").read_text()),
        "processes": {name: pid for name, pid, _ in running},
        "started": {name: when for name, _, when in running},
        "staged": {str(path): [path.stat().st_ino, path.stat().st_mtime] for path in staged},
        "records": [json.loads(line) for line in (root / "deploys.jsonl").read_text().splitlines()],
    }
print(json.dumps(look))
"""

VERSIONED = re.compile(r'(?:src|href)="(/[^"]+\?v=([0-9a-f]{128}))"')


@dataclass(frozen=True)
class Look:
    """What there was on a host at one moment; on a balancer, its door alone."""

    doors: list[str]  # each process of nginx and HAProxy: its name, its PID, when it started
    generation: str = ""
    release: str = ""
    settings: dict[str, str] = field(default_factory=dict)
    processes: dict[str, int] = field(default_factory=dict)  # PID by supervisord's name
    # the clock that it is reckoned with is adjusted, so a process may seem to have started a little earlier than before
    started: dict[str, float] = field(default_factory=dict, compare=False)
    staged: dict[str, list[float]] = field(default_factory=dict)  # inode and mtime of what a deploy brings
    records: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Middle:
    """What was seen while a deploy was stopped after the first of two hosts."""

    looks: dict[str, Look]
    pages: dict[str, str]  # by host
    assets: list[tuple[str, str, Answer]]  # door, version, and what it answered
    unpublished: dict[str, Answer]  # by door: a version that nobody published
    second: Run  # a deploy that was started meanwhile
    lock: dict[str, Any]


@dataclass(frozen=True)
class Step:
    """One playbook, under traffic."""

    wanted: dict[str, Any]  # the variables that describe what is there now
    before: dict[str, Look]
    run: Run
    report: Report
    after: dict[str, Look]


def look(fleet: Fleet) -> dict[str, Look]:
    """What there is on every host."""
    return {host: Look(**json.loads(fleet.sh(host, "python3 -c %s", LOOK))) for host in ["lb1", *fleet.hosts]}


def get(fleet: Fleet, door: str, path: str, headers: dict[str, str] | None = None) -> Answer:
    """Ask a front door, on a connection of its own."""
    parts = urlsplit(fleet.doors[door])
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request("GET", path, headers=headers or {})
        response = connection.getresponse()
        found = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, found, response.read())
    finally:
        connection.close()


def assets(fleet: Fleet, pages: dict[str, str]) -> list[tuple[str, str, Answer]]:
    """Every versioned file that a page names, from every door."""
    named = {found for page in pages.values() for found in VERSIONED.findall(page)}
    return [(door, version, get(fleet, door, url)) for url, version in sorted(named) for door in fleet.doors]
