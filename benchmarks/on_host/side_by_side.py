"""Loads servers of this host in turns, with wrk, and compares what they did.

In a round every subject has its turn, so that a ratio is one of neighbours; the next round begins with another and
goes the other way. A subject that answered one request wrongly has an error and no figure.
"""

import argparse
import http.client
import os
import re
import subprocess
import urllib.parse
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from results import Results

RATE = "requests per second"
P50 = "p50"
P99 = "p99"
CPU = "CPU time per request"
MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}


@dataclass(frozen=True)
class Answer:
    status: int
    encoding: str
    body: bytes


@dataclass(frozen=True)
class Subject:
    """One server of a comparison.

    `groups` names the processes that work for it by their part in it ("nginx", "Tornado"); their children count too.
    `wrong` looks at one answer and returns a sentence if it is not the right one, else "".
    """

    name: str
    url: str
    groups: Mapping[str, Sequence[int]]
    wrong: Callable[[Answer], str]
    headers: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if urllib.parse.urlsplit(self.url).hostname != "127.0.0.1":
            raise ValueError(f"{self.url} is not loaded: only 127.0.0.1 is")


@dataclass(frozen=True)
class Options:
    """Each subject gets `warm_up` seconds, then `rounds` times `seconds`; wrk has one thread."""

    rounds: int
    seconds: int
    connections: int
    warm_up: int = 1

    @classmethod
    def parse(cls, description: str | None) -> "Options":
        parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        parser.add_argument("--rounds", type=int, default=15, help="(%(default)s)")
        parser.add_argument("--seconds", type=int, default=2, help="of a turn (%(default)s)")
        parser.add_argument("--connections", type=int, default=32, help="of wrk, kept alive (%(default)s)")
        given = parser.parse_args()
        return cls(given.rounds, given.seconds, given.connections)

    @property
    def method(self) -> str:
        return (
            f"Servers on one host in turns, {self.rounds} rounds of {self.seconds} s each after {self.warm_up} s of"
            f" warm-up; wrk with 1 thread and {self.connections} kept-alive connections on the same CPUs, over loopback."
            " CPU time is that of the server's processes (/proc/PID/stat)."
        )


def ask(subject: Subject) -> Answer:
    """Send one request as wrk does."""
    url = urllib.parse.urlsplit(subject.url)
    connection = http.client.HTTPConnection(str(url.hostname), url.port, timeout=10)
    try:
        connection.putrequest("GET", f"{url.path}?{url.query}" if url.query else url.path, skip_accept_encoding=True)
        for name, value in subject.headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return Answer(response.status, response.getheader("Content-Encoding", ""), response.read())
    finally:
        connection.close()


def check(subject: Subject) -> None:
    """Ask once. ValueError if the answer is not the right one."""
    if sentence := subject.wrong(ask(subject)):
        raise ValueError(sentence)


def descendants(roots: Iterable[int]) -> set[int]:
    """Return `roots` and their children, and the children's children."""
    parents: dict[int, int] = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(place.parent.name)] = int(place.read_text(encoding="utf-8").rpartition(")")[2].split()[1])
        except OSError:  # it has ended since
            continue
    found = set(roots)
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def cpu_seconds(pids: Iterable[int]) -> float:
    """Return user and system time of processes so far (proc(5): utime, stime). FileNotFoundError if one ended."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def load(subject: Subject, options: Options, seconds: int) -> dict[str, float]:
    """Load a subject for `seconds`; return its figures by name. ValueError if a request failed."""
    command = ["wrk", "-t1", f"-c{options.connections}", f"-d{seconds}s", "--latency"]
    for name, value in subject.headers.items():
        command += ["-H", f"{name}: {value}"]
    groups = {name: descendants(roots) for name, roots in subject.groups.items()}
    before = {name: cpu_seconds(pids) for name, pids in groups.items()}
    ran = subprocess.run([*command, subject.url], capture_output=True, text=True, timeout=seconds + 20, check=True)
    cpu = {name: cpu_seconds(pids) - before[name] for name, pids in groups.items()}
    return figures_of(ran.stdout, cpu)


def figures_of(output: str, cpu: Mapping[str, float]) -> dict[str, float]:
    """Read what wrk printed; `cpu` is what each group of processes took meanwhile, in seconds."""
    for line in ("Socket errors", "Non-2xx or 3xx responses"):
        if found := re.search(rf"{line}: .+", output):
            raise ValueError(f"wrk: {found[0]}")
    total = re.search(r"(\d+) requests in ", output)
    rate = re.search(r"Requests/sec: +([\d.]+)", output)
    if total is None or rate is None or not int(total[1]):
        raise ValueError("wrk: no request was answered")
    requests = int(total[1])
    figures = {RATE: float(rate[1])}
    for figure, percent in ((P50, 50), (P99, 99)):
        latency = re.search(rf"^ +{percent}% +([\d.]+)(us|ms|s|m)$", output, re.MULTILINE)
        if latency is None:
            raise ValueError(f"wrk printed no latency at {percent} %")
        figures[figure] = float(latency[1]) * MILLISECONDS[latency[2]]
    figures[CPU] = sum(cpu.values()) / requests * 1e6
    if len(cpu) > 1:
        figures |= {f"{CPU}, {name}": seconds / requests * 1e6 for name, seconds in cpu.items()}
    return figures


def compare(results: Results, case: str, subjects: Sequence[Subject], options: Options) -> None:
    """Measure `subjects` and add their figures, or errors, to `results`."""
    rounds: dict[str, list[dict[str, float]]] = {}
    for subject in subjects:
        try:
            check(subject)
            load(subject, options, options.warm_up)
        except (OSError, ValueError, http.client.HTTPException, subprocess.SubprocessError) as error:
            results.add_error(case, subject.name, str(error))
        else:
            rounds[subject.name] = []
    working = [subject for subject in subjects if subject.name in rounds]
    for number in range(options.rounds):
        first = number % max(len(working), 1)
        order = working[first:] + working[:first]
        for subject in order if number % 2 == 0 else reversed(order):
            if subject.name not in rounds:
                continue
            try:
                rounds[subject.name].append(load(subject, options, options.seconds))
            except (OSError, ValueError, subprocess.SubprocessError) as error:
                results.add_error(case, subject.name, str(error))
                del rounds[subject.name]
    for name, values in rounds.items():
        for figure in values[0]:
            unit = "1/s" if figure == RATE else "us" if figure.startswith(CPU) else "ms"
            results.add_figure(case, name, figure, unit, [value[figure] for value in values])
