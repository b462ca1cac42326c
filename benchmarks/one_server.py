"""One server process to be measured: the runner's, or Tornado's own for comparison, with the same application on uvloop.

A program that measures calls `parse` first: started with ``--serve-bare``, it is the server of the comparison.
"""

import argparse
import asyncio
import gc
import logging
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from on_host.browser import CHROME
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

HERE = Path(__file__).resolve().parent
RUNNER = HERE.parent / "runner" / "src"
ALLOWED = 1.05  # times a limit

# What a browser and nginx send, 786 bytes.
BROWSER = {
    "Host": "board.example.com",
    "X-Request-Id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "X-Real-IP": "203.0.113.9",
    "X-Scheme": "https",
    **CHROME,
}


class Hello(RequestHandler):
    def get(self) -> None:
        self.write("hello, world\n")


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if body:
        lines += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


def serve_bare(application: Application, port: int, xheaders: bool = True) -> None:
    """Serve as Tornado's guide does, with what the runner does once at the start; never return."""
    import uvloop  # noqa: PLC0415 - the measuring process does not need it

    async def serve() -> None:
        logging.getLogger("tornado.access").setLevel(logging.WARNING)
        gc.collect()
        gc.freeze()
        HTTPServer(application, xheaders=xheaders).listen(port, "127.0.0.1", backlog=4096)
        await asyncio.Event().wait()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


def parse(description: str, make_app: Callable[[], Application]) -> argparse.Namespace:
    """Return the command line's options for `running`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--bare", action="store_true", help="of Tornado's own server")
    parser.add_argument("--serve-bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="options of the runner, after --")
    given = parser.parse_args()
    if given.serve_bare:
        serve_bare(make_app(), given.serve_bare)
    return given


@contextmanager
def running(program: Path, given: argparse.Namespace, port: int, *wrapper: str) -> Iterator[int]:
    """Start the server of ``make_app`` in `program`, by `wrapper`; yield its pid when it accepts connections to `port`."""
    bare = [str(program), "--serve-bare", str(port)]
    eyewall = [
        "-m",
        "eyewall",
        "--port",
        str(port),
        "--watchdog-timeout",
        "0",
        *given.options,
        f"{program.stem}:make_app",
    ]
    path = os.pathsep.join((os.environ.get("EYEWALL_SOURCE", str(RUNNER)), str(HERE)))
    process = subprocess.Popen(
        # it ends with this process, also with one that is killed
        ["setpriv", "--pdeathsig", "KILL", *wrapper, sys.executable, *(bare if given.bare else eyewall)],
        env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        stderr=subprocess.DEVNULL,
    )
    try:
        while True:
            assert process.poll() is None, "the server did not start"
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        yield process.pid
    finally:
        process.kill()
        process.wait()


def exceeds(given: argparse.Namespace, name: str, figure: float, unit: str, limit: int) -> bool:
    """Print a figure; return whether it is more than `ALLOWED` times the limit, which the comparison does not have."""
    above = not given.bare and figure > limit * ALLOWED
    print(f"{name}: {figure:,.0f} {unit} of {limit:,}{' TOO MANY' * above}", flush=True)
    return above
