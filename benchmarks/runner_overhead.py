"""What does the runner cost? Bare Tornado and ``python -m eyewall`` in turns, one process each.

    python benchmarks/runner_overhead.py

Both serve the same application on uvloop, with the garbage collector frozen after loading and no access log,
so that the difference is what the runner does for each request. Two cases:

- ``plain``: no proxy headers; Tornado without xheaders.
- ``proxied``: the headers that nginx sends; Tornado with ``xheaders=True``.

Pairs of rounds run A B, B A, …; for each pair the ratio runner / bare is taken, and the median and the spread
of these ratios are printed. CPU time per request (of the server, from /proc/PID/stat) is the steadier
figure where cores are shared. Load is made by ``wrk`` on another core if there is one.

With ``--instructions``, the processor instructions per request are counted instead (user mode, by valgrind's
cachegrind): the same number on a busy machine, where times of two equal servers differ by 10 %.

Ends with status 1 if a request costs more than 3 % above bare Tornado's.
"""

import argparse
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from on_host.ports import free_port
from one_server import RUNNER, Hello, serve_bare
from tornado.web import Application

HERE = Path(__file__).resolve()
ALLOWED = 1.03
PROXY_HEADERS = {
    "X-Real-Ip": "203.0.113.9",
    "X-Forwarded-For": "203.0.113.9",
    "X-Scheme": "https",
    "X-Request-Id": "4bf92f3577b34da6a3ce929d0e0e4736",
}
CASES: dict[str, dict[str, str]] = {"plain": {}, "proxied": PROXY_HEADERS}


def make_app() -> Application:
    return Application([("/", Hello)])


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A server process on the first core."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port = port
        path = os.pathsep.join(filter(None, [str(RUNNER), os.environ.get("PYTHONPATH", "")]))
        self.process = subprocess.Popen(
            [sys.executable, *command], env=os.environ | {"PYTHONPATH": path}, cwd=HERE.parent
        )
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(self.process.pid, cores[:1])
        deadline = time.monotonic() + 20
        while not answers(port):
            assert self.process.poll() is None, "the server did not start"
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.05)

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def measure(server: Server, seconds: int, headers: dict[str, str]) -> tuple[float, float]:
    """Load a server; return requests per second and its CPU microseconds per request."""
    cores = sorted(os.sched_getaffinity(0))
    command = ["taskset", "-c", str(cores[-1]), "wrk", "-t1", "-c32", f"-d{seconds}s"]
    for name, value in headers.items():
        command += ["-H", f"{name}: {value}"]
    before = server.cpu_seconds()
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{server.port}/"], check=True, capture_output=True, text=True
    ).stdout
    cpu = server.cpu_seconds() - before
    match = re.search(r"(\d+) requests in ([\d.]+)s", output)
    assert match, output
    assert "Non-2xx" not in output, output
    requests = int(match[1])
    return requests / float(match[2]), cpu / requests * 1e6


def spread(ratios: list[float]) -> str:
    low, middle, high = statistics.quantiles(ratios, n=4)
    return f"{middle:.3f} (quartiles {low:.3f} to {high:.3f}, all {min(ratios):.3f} to {max(ratios):.3f})"


def run_case(case: str, pairs: int, seconds: int) -> float:
    """Measure one case, print it, and return the median ratio of CPU time per request."""
    headers = CASES[case]
    ports = free_port(), free_port()
    servers: list[Server] = []
    results: list[list[tuple[float, float]]] = [[], []]
    try:
        servers.append(Server([str(HERE), "--serve-bare", str(ports[0]), case], ports[0]))
        servers.append(Server(["-m", "eyewall", "--port", str(ports[1]), f"{HERE.stem}:make_app"], ports[1]))
        for server in servers:  # warm up
            measure(server, 1, headers)
        for pair in range(pairs):
            for index in (0, 1) if pair % 2 == 0 else (1, 0):
                results[index].append(measure(servers[index], seconds, headers))
    finally:
        for server in servers:
            server.stop()
    print(f"{case}: {pairs} pairs of {seconds} s")
    for name, result in zip(("bare", "runner"), results, strict=True):
        rate, cpu = (statistics.median(values) for values in zip(*result, strict=True))
        print(f"  {name:7} {rate:7.0f} req/s {cpu:7.1f} us/req")
    by_rate = [b[0] / a[0] for a, b in zip(*results, strict=True)]
    by_cpu = [b[1] / a[1] for a, b in zip(*results, strict=True)]
    print(f"  req/s   runner / bare: {spread(by_rate)}")
    print(f"  us/req  runner / bare: {spread(by_cpu)}", flush=True)
    return float(statistics.median(by_cpu))


def count_instructions(command: list[str], port: int, headers: dict[str, str], requests: int) -> int:
    """Start a server in valgrind, send it requests on one connection, and return what it took in all."""
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    request = f"GET / HTTP/1.1\r\nHost: localhost\r\n{lines}\r\n".encode()
    path = os.pathsep.join((str(RUNNER), str(HERE.parent)))
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
    server = subprocess.Popen(
        [*valgrind, sys.executable, *command],
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        stderr=subprocess.PIPE,
        text=True,
    )
    while not answers(port):
        assert server.poll() is None, "the server did not start"
        time.sleep(0.2)
    with socket.create_connection(("127.0.0.1", port)) as connection:
        for _ in range(requests):
            connection.sendall(request)
            answer = b""
            while b"hello, world" not in answer:
                answer += connection.recv(4096)
    server.send_signal(signal.SIGTERM)
    match = re.search(r"I\s+refs:\s+([\d,]+)", server.communicate()[1])
    assert match
    return int(match[1].replace(",", ""))


def compare_instructions(case: str) -> float:
    """Print and return the ratio of instructions per request, what the start takes left out."""
    few, many = 300, 2300
    each: list[float] = []
    for kind in ("bare", "runner"):
        totals = []
        for requests in (few, many):
            port = free_port()
            bare = [str(HERE), "--serve-bare", str(port), case]
            runner = ["-m", "eyewall", "--port", str(port), "--watchdog-timeout", "0", f"{HERE.stem}:make_app"]
            totals.append(count_instructions(bare if kind == "bare" else runner, port, CASES[case], requests))
        each.append((totals[1] - totals[0]) / (many - few))
    ratio = each[1] / each[0]
    print(f"{case}: bare {each[0]:.0f}, runner {each[1]:.0f} instructions per request: {ratio:.3f}", flush=True)
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure what the runner costs per request.")
    parser.add_argument("--pairs", type=int, default=8, help="pairs of rounds in each case (%(default)s)")
    parser.add_argument("--seconds", type=int, default=2, help="seconds of each round (%(default)s)")
    parser.add_argument("--case", choices=CASES, action="append", help="only this case (default: all)")
    parser.add_argument("--instructions", action="store_true", help="count instructions (valgrind) instead of time")
    parser.add_argument("--serve-bare", nargs=2, metavar=("PORT", "CASE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve_bare:
        serve_bare(make_app(), int(given.serve_bare[0]), xheaders=given.serve_bare[1] == "proxied")
    program = "valgrind" if given.instructions else "wrk"
    if not shutil.which(program):
        sys.exit(f"{program} is needed: apt-get install -y {program}")
    cases = given.case or list(CASES)
    if given.instructions:
        ratios = [compare_instructions(case) for case in cases]
    else:
        ratios = [run_case(case, given.pairs, given.seconds) for case in cases]
    return int(max(ratios) > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
