"""Part `settings`: each setting of the roles that is there for speed, beside the same host without it.

Printed as JSON. As root on a host that the roles deployed benchmarks/application.py on.
"""

import asyncio
import resource
import time
from functools import partial
from pathlib import Path

from deployed import find, versions
from results import Results, version
from servers import LOOPBACK, Servers
from side_by_side import CPU, RATE, Answer, Options, Subject, compare

EYEWALL = "Eyewall"
HELLO, FILE = "/hello", "/static/1k.txt"
STORM = 6000  # connections at once
STORM_SECONDS = 60  # then what was not answered never will be
TIME = "time until all are answered"

# Case, path, the other one's name, and what it has in the place of lines of nginx.conf (regular expressions).
NGINX = (
    ("nginx_upstream_keepalive", HELLO, "a connection for each request", {r"^\s*keepalive \d+;": ""}),
    ("nginx_workers", FILE, "one nginx worker", {r"^worker_processes .+;": "worker_processes 1;"}),
    ("tornado_app_processes", HELLO, "one Tornado process", {r"(^\s*server .*;\n)(?s:.*?)(?=^\s*keepalive )": r"\1"}),
    ("access log in a buffer", FILE, "a write for each line", {r" buffer=64k flush=1s": ""}),
    ("open_file_cache", FILE, "a file opened for each request", {r"^\s*open_file_cache.*;": ""}),
)  # fmt: skip


def wrong(body: bytes, answer: Answer) -> str:
    """Return a sentence if it is not an answer with `body`, else ""."""
    if (answer.status, answer.body) != (200, body):
        return f"answered status {answer.status} and {len(answer.body)} bytes, not 200 and the right {len(body)}"
    return ""


async def storm(port: int) -> float:
    """Connect STORM times at once, ask on each, and return the seconds until all were answered.

    TimeoutError if that takes longer than STORM_SECONDS, OSError if a connection was refused or ended without an answer.
    """

    async def one() -> None:
        reader, writer = await asyncio.open_connection(LOOPBACK, port)
        try:
            writer.write(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if not (line := await reader.readline()).startswith(b"HTTP/1.1 200 "):
                raise ConnectionError(f"answered {line!r}")
        finally:
            writer.close()

    begin = time.monotonic()
    async with asyncio.timeout(STORM_SECONDS), asyncio.TaskGroup() as group:
        for _ in range(STORM):
            group.create_task(one())
    return time.monotonic() - begin


def storms(results: Results, servers: Servers, rounds: int) -> None:
    """Compare accept queues: of the role's length, and of Tornado's own."""
    case, ours, theirs = f"tornado_app_backlog, {STORM:,} connections at once", EYEWALL, "Tornado's own backlog of 128"
    ports = {ours: servers.runner(), theirs: servers.runner("--backlog", "128")}
    files = 2 * STORM
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, max(files, resource.getrlimit(resource.RLIMIT_NOFILE)[1])))
    taken: dict[str, list[float]] = {name: [] for name in ports}
    try:
        for number in range(-1, rounds):
            for name in ports if number % 2 else reversed(ports):
                seconds = asyncio.run(storm(ports[name]))
                if number >= 0:  # the one before warms up
                    taken[name].append(seconds)
    except (ExceptionGroup, OSError, TimeoutError) as error:
        # of the group's thousands, one says enough
        first = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
        results.add_error(case, name, f"{type(first).__name__}: {first}")
    for name, seconds_of in taken.items():
        if seconds_of:
            results.add_figure(case, name, TIME, "s", seconds_of)
    results.add_ratio(case, ours, theirs, TIME, better="less")


def main() -> None:
    options = Options.parse(__doc__)
    deployed = find()
    results = Results("settings", options.method, versions(deployed) | {"wrk": version("wrk", "-v")})
    with Servers(deployed) as servers:
        for case, path, name, change in NGINX:
            body = b"hello, world\n" if path == HELLO else (deployed.static / Path(path).name).read_bytes()
            subjects = [
                Subject(
                    subject,
                    f"http://{LOOPBACK}:{port}{path}",
                    {"nginx": [nginx], **({"Tornado": deployed.pids} if path == HELLO else {})},
                    partial(wrong, body),
                )
                for subject, (port, nginx) in {
                    EYEWALL: (deployed.nginx_port, deployed.nginx_pid),
                    name: servers.changed(change),
                }.items()
            ]
            compare(results, case, subjects, options)
            results.add_ratio(case, EYEWALL, name, RATE)
            results.add_ratio(case, EYEWALL, name, CPU, better="less")
        storms(results, servers, options.rounds)
    results.write()


if __name__ == "__main__":
    main()
