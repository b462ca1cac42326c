"""What TLS costs at the front door, beside plain HTTP. Writes .build/benchmarks/tls.json.

PYTHONPATH=tests python benchmarks/tls.py [--rounds 3]

The role's HAProxy on this machine, before one process of the test application: CPU for each request of a kept-alive
connection, requests per second, and handshakes per second, new and resumed. Everything takes turns in each round.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from on_host.results import Results, version
from support.net import free_port
from support.runner import Eyewall
from support.tls_door import HAPROXY, TLSDoor

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / ".build" / "benchmarks"
TESTAPP = ROOT / "tests" / "apps" / "testapp" / "src" / "testapp"
SECONDS = 5
CONNECTIONS = 16
TICKS = 100  # of /proc/PID/stat, per second (USER_HZ)
PATH = "/echo?text=hello"
KEPT, SHAKES = "a small answer, kept alive", "handshakes"


def cpu(pids: list[int]) -> float:
    """CPU seconds of some processes and what they have started by now."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def children(pid: int) -> list[int]:
    said = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(word) for word in said.split()]


def printed(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"no {pattern!r} in: {text[-500:]}")
    return float(found[1])


def load(url: str, http2: bool = False) -> float:
    """Requests in SECONDS, kept alive."""
    if http2:
        words = ["h2load", "-D", str(SECONDS), "-c", str(CONNECTIONS), "-m", "4", url]
        return number(r"requests: .* (\d+) succeeded", printed(*words))
    said = printed("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}", url)
    return number(r"(\d+) requests in", said)


def handshakes(port: int, how: str) -> float:
    """Handshakes per second of one client that does nothing else."""
    words = ["openssl", "s_time", "-connect", f"127.0.0.1:{port}", f"-{how}", "-time", str(SECONDS), "-tls1_3"]
    said = printed(*words)
    return number(r"(\d+) connections in \d+ real seconds", said) / number(r"connections in (\d+) real", said)


def measure(results: Results, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        shutil.copytree(TESTAPP, Path(name) / "testapp")
        server = Eyewall(Path(name), "testapp:make_app", "--release", "1.0.0", port=free_port()).ready()
        limits = {"haproxy_client_request_rate": 0, "haproxy_https_redirect": False}
        door = TLSDoor(Path(name), server.port, **limits)
        workers = children(door.process.pid)
        loads: dict[str, Callable[[], float]] = {
            "without HAProxy": lambda: load(f"http://127.0.0.1:{server.port}{PATH}"),
            "HTTP/1.1": lambda: load(f"http://127.0.0.1:{door.plain}{PATH}"),
            "TLS, HTTP/1.1": lambda: load(f"{door.url}{PATH}"),
            "TLS, HTTP/2": lambda: load(f"{door.url}{PATH}", http2=True),
        }
        each: dict[str, dict[str, list[float]]] = {subject: {} for subject in loads}
        shakes: dict[str, list[float]] = {"new": [], "reuse": []}
        try:
            for _ in range(rounds):
                for subject, run in loads.items():
                    before, app = cpu(workers), cpu([server.process.pid])
                    count = run()
                    own, theirs = cpu(workers) - before, cpu([server.process.pid]) - app
                    found = {"requests per second": count / SECONDS, "CPU of HAProxy": own / count * 1e6,
                             "CPU with the process": (own + theirs) / count * 1e6}  # fmt: skip
                    for figure, value in found.items():
                        each[subject].setdefault(figure, []).append(value)
                    time.sleep(0.5)
                for how, values in shakes.items():
                    values.append(handshakes(door.port, how))
        finally:
            door.stop()
            server.kill()
    for subject, figures in each.items():
        for figure, values in figures.items():
            results.add_figure(KEPT, subject, figure, "µs" if "CPU" in figure else "/s", values)
    results.add_figure(SHAKES, "new", "handshakes per second", "/s", shakes["new"])
    results.add_figure(SHAKES, "resumed", "handshakes per second", "/s", shakes["reuse"])
    results.add_ratio(KEPT, "TLS, HTTP/1.1", "HTTP/1.1", "CPU with the process", wanted=1.25, better="less")
    results.add_ratio(KEPT, "TLS, HTTP/1.1", "HTTP/1.1", "CPU of HAProxy")
    results.add_ratio(KEPT, "TLS, HTTP/2", "HTTP/1.1", "CPU with the process")
    results.add_ratio(KEPT, "HTTP/1.1", "without HAProxy", "CPU with the process")
    results.add_ratio(SHAKES, "resumed", "new", "handshakes per second")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (default: %(default)s)")
    given = parser.parse_args()
    results = Results(
        "tls",
        f"The role's HAProxy before one process, {CONNECTIONS} kept-alive connections for {SECONDS} s with wrk and h2load, and "
        f"openssl s_time for handshakes (TLS 1.3, P-256), {given.rounds} rounds in turn.",
        versions={"HAProxy": version(HAPROXY or "haproxy", "-v"), "OpenSSL": version("openssl", "version")},
        notes=[
            "The machine's CPUs are those of the load, too, so requests per second are less than what a front door can serve."
        ],
    )
    measure(results, given.rounds)
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / "tls.json").open("w", encoding="utf-8") as file:
        results.write(file)
    for ratio in results.ratios:
        sys.stdout.write(f"{ratio['of']} to {ratio['to']}, {ratio['figure']}: {ratio['median']:.2f}\n")


if __name__ == "__main__":
    main()
