"""Part `connections`: how many WebSockets this host holds through nginx, what each costs, and a handover meanwhile.

Printed as JSON. As root on a host that the roles deployed benchmarks/application.py on. benchmarks/connections.py
starts it, and the handover when this says, by a file beside it, that all are held.
"""

import argparse
import http.client
import re
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from deployed import Deployed, command_line, find, versions
from results import Results
from side_by_side import cpu_seconds, descendants
from websockets import Counts, Target, WebSockets

ECHOES = 3  # rounds
IN_FLIGHT = 200  # clients that wait for an answer at a time
PATIENCE = 600.0  # seconds until something that was to happen has not
HELD = Path(__file__).with_name("held")
ALLOWED_LAG = 0.2  # seconds (issue 5)


class AdminConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(10)
        self.sock.connect(str(self.path))


class Lag(threading.Thread):
    """Asks every process at its admin socket, old ones and new: what it says of its loop, and how long /health takes."""

    def __init__(self, sockets: Path) -> None:
        super().__init__(daemon=True)
        self.said = 0.0
        self.answer = 0.0
        self._sockets = sockets
        self._ended = threading.Event()

    def run(self) -> None:
        number = 0
        while not self._ended.wait(0.1):
            number += 1
            for path in self._sockets.glob("*.sock"):
                begin = time.monotonic()
                if ask(path, "/health"):
                    self.answer = max(self.answer, time.monotonic() - begin)
                # about once a second is how often a loop looks how late it is
                lag = re.search(
                    r"^eyewall_loop_lag_seconds (\S+)$", ask(path, "/metrics") if number % 8 == 0 else "", re.M
                )
                self.said = max(self.said, float(lag[1]) if lag else 0.0)

    def end(self) -> None:
        self._ended.set()
        self.join()


def word_after(option: str, pid: int) -> str:
    """Return what an option of a process is."""
    words = command_line(pid)
    return words[words.index(option) + 1]


def ask(path: Path, what: str) -> str:
    """Return what an admin socket answers; nothing if there is nobody (any more)."""
    connection = AdminConnection(path)
    try:
        connection.request("GET", what)
        return connection.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        connection.close()


def memory(pids: Iterable[int]) -> int:
    """Return the memory of processes in KB that is theirs alone, as what grows is (proc(5): RssAnon)."""
    return sum(number_in(Path(f"/proc/{pid}/status"), r"^RssAnon:\s+(\d+) kB$") for pid in pids)


def number_in(path: Path, line: str) -> int:
    found = re.search(line, path.read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise ValueError(f"no line {line!r} in {path}")
    return int(found[1])


def kernel_memory() -> int:
    """Return KB of the whole kernel: its objects, and what waits in the buffers of TCP (in pages of 4 KB)."""
    buffers = number_in(Path("/proc/net/sockstat"), r"^TCP: .* mem (\d+)$")
    return number_in(Path("/proc/meminfo"), r"^Slab:\s+(\d+) kB$") + 4 * buffers


class Groups:
    """The processes that WebSockets go through, by name."""

    def __init__(self, deployed: Deployed) -> None:
        workers = descendants([deployed.nginx_pid]) - {deployed.nginx_pid}
        self.pids = {"Tornado": sorted(deployed.pids), "nginx": sorted(workers)}

    def memory(self) -> dict[str, int]:
        return {name: memory(pids) for name, pids in self.pids.items()} | {"kernel": kernel_memory()}

    def cpu(self) -> dict[str, float]:
        return {name: cpu_seconds(pids) for name, pids in self.pids.items()}


def limits(groups: Groups, deployed: Deployed, count: int) -> list[str]:
    """Say what is left of each limit that bites, the real values of this host."""
    said = []
    for name, pids in groups.pids.items():
        files = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids]
        limit = number_in(Path(f"/proc/{pids[0]}/limits"), r"^Max open files\s+(\d+)")
        said.append(f"Open files of {name}: {', '.join(map(str, sorted(files)))} of {limit} each.")
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text(encoding="utf-8").split()
    ports = int(high) - int(low) + 1
    said.append(
        f"Source ports of nginx: about {count // len(deployed.ports)} of {ports} to each process (ip_local_port_range);"
        " beyond the half of them each connection takes the kernel longer, as it looks for an even one first."
    )
    connections = number_in(Path("/etc/nginx/nginx.conf"), r"^\s*worker_connections (\d+);")
    said.append(
        f"worker_connections: {connections} in each of {len(groups.pids['nginx'])} workers, two for a WebSocket."
    )
    overflows = listen_overflows()
    somaxconn = Path("/proc/sys/net/core/somaxconn").read_text(encoding="utf-8").strip()
    said.append(f"Accept queues (somaxconn {somaxconn}) were full {overflows} times since the host's start.")
    available = number_in(Path("/proc/meminfo"), r"^MemAvailable:\s+(\d+) kB$")
    said.append(f"Memory that is left: {available // 1024} MB.")
    return said


def listen_overflows() -> int:
    """Return how often a connection found an accept queue full (ListenOverflows of /proc/net/netstat)."""
    names, values = (
        line.split()
        for line in Path("/proc/net/netstat").read_text(encoding="utf-8").splitlines()
        if line.startswith("TcpExt:")
    )
    return int(values[names.index("ListenOverflows")])


def wrong(counts: Counts, wanted: int) -> str:
    """Return a sentence if not all are open, or something went wrong on the way, else ""."""
    errors = ", ".join(f"{number} times {error}" for error, number in counts.errors.most_common())
    if errors:
        return errors
    return "" if counts.open == wanted else f"{counts.open} of {wanted} are open"


def hold(results: Results, websockets: WebSockets, groups: Groups, count: int, idle: float) -> str:
    """Open all of them, and measure what they cost; return a sentence if that failed, else ""."""
    before = groups.memory()
    begin = time.monotonic()
    counts = websockets.open(PATIENCE)
    took = time.monotonic() - begin
    if error := wrong(counts, count):
        return error
    results.add_figure("hold", "Eyewall", "WebSockets held", "1", [counts.open])
    results.add_figure("hold", "Eyewall", "time to establish all", "s", [took])
    results.add_figure("hold", "Eyewall", "established per second", "1/s", [count / took])
    rounds = []
    for _ in range(ECHOES):
        begin = time.monotonic()
        counts = websockets.echo(PATIENCE)
        rounds.append(time.monotonic() - begin)
    if error := wrong(counts, count):
        return error
    results.add_figure("hold", "Eyewall", "every one echoes", "s", rounds)
    for name, now in groups.memory().items():
        results.add_figure("hold", name, "memory per WebSocket", "KB", [(now - before[name]) / count])
    cpu = groups.cpu()
    time.sleep(idle)
    for name, now_cpu in groups.cpu().items():
        results.add_figure("hold", name, "CPU while idle", "% of a CPU", [100 * (now_cpu - cpu[name]) / idle])
    return ""


def hand_over(results: Results, websockets: WebSockets, deployed: Deployed, count: int, seconds: float) -> str:
    """Wait for a handover and measure it; return a sentence if that failed, else ""."""
    lag = Lag(Path(word_after("--admin", deployed.pids[0])).parent)
    begun = 0.0
    lag.start()
    HELD.touch()
    deadline = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in deployed.pids):
        if time.monotonic() > deadline:
            return f"the processes did not change hands within {seconds:g} s"
        time.sleep(0.5)
        if not begun and websockets.counts().told:
            begun = time.monotonic()
    took = time.monotonic() - begun
    counts = websockets.echo(PATIENCE)
    lag.end()
    error = wrong(counts, count)
    if not error and counts.told != count:
        error = f"{count - counts.told} of {count} had no close frame"
    if error:
        return error
    results.add_figure("handover", "Eyewall", "time", "s", [took])
    results.add_figure("handover", "Eyewall", "close frames per WebSocket", "1", [counts.codes.total() / count])
    results.add_figure(
        "handover", "Eyewall", "longest time between a close frame and the next echo", "s", [counts.away]
    )
    results.add_figure("handover", "Eyewall", "largest loop lag", "s", [lag.said])
    results.figures[-1] |= {"wanted": ALLOWED_LAG, "better": "less"}
    results.add_figure("handover", "Eyewall", "slowest answer of an admin socket", "s", [lag.answer])
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=50000, help="of WebSockets (%(default)s)")
    parser.add_argument("--idle", type=float, default=10, help="seconds in which nobody says anything (%(default)g)")
    parser.add_argument("--handover", type=float, default=600, help="seconds to wait for it; 0: none (%(default)g)")
    given = parser.parse_args()
    deployed = find()
    groups = Groups(deployed)
    results = Results(
        "connections",
        f"{given.count} WebSockets from clients of our own on the same CPUs, over loopback, through nginx; each sends 7"
        f" bytes and waits for its echo, {IN_FLIGHT} at a time. Memory is RssAnon; that of the kernel is of all four ends of"
        " a WebSocket, the client's and nginx's three with it.",
        versions(deployed),
    )
    results.notes += [
        f"{len(deployed.ports)} Tornado processes, {len(groups.pids['nginx'])} nginx workers;"
        f" tornado_app_drain_timeout is {word_after('--drain-timeout', deployed.pids[0])} s.",
        "What is done while idle is the application's pings: it asks each WebSocket every 20 s whether it is there"
        " (websocket_ping_interval).",
    ]
    with WebSockets(given.count, Target(deployed.nginx_port, "/echo", IN_FLIGHT)) as websockets:
        case, error = "hold", hold(results, websockets, groups, given.count, given.idle)
        if not error:
            results.notes += limits(groups, deployed, given.count)
            if given.handover:
                case, error = "handover", hand_over(results, websockets, deployed, given.count, given.handover)
        if error:
            results.add_error(case, "Eyewall", error)
    results.write()


if __name__ == "__main__":
    main()
