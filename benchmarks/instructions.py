"""How many instructions does a request cost? The runner's processor instructions in user mode, counted by callgrind.

    python benchmarks/instructions.py
    python benchmarks/instructions.py --bare     # Tornado's own HTTPServer, for comparison

The figures are the same on a busy machine within some 2 %, where times of two equal servers differ by 10 %. One process on
uvloop answers one kept-alive connection. Ends with status 1 if a case costs more than `ALLOWED` times its limit.
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from on_host.browser import CHROME
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler

HERE = Path(__file__).resolve()
RUNNER = HERE.parent.parent / "runner" / "src"
ALLOWED = 1.05
WARM, COUNTED = 300, 500

# What a browser and nginx send, 786 bytes.
BROWSER = {
    "Host": "board.example.com",
    "X-Request-Id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "X-Real-IP": "203.0.113.9",
    "X-Scheme": "https",
    **CHROME,
}
JSON = json.dumps({"items": [{"id": number, "name": f"number {number}"} for number in range(30)]})[:1020].encode()


class Hello(RequestHandler):
    def get(self) -> None:
        self.write("hello, world\n")


class Api(RequestHandler):
    def post(self) -> None:
        self.write({"length": len(self.request.body)})


PAGE = """<!DOCTYPE html><html><head><title>{{ title }}</title></head><body>
<form method="post">{% module xsrf_form_html() %}</form>
<ul>{% for item in items %}<li class="{{ item['class'] }}"><a href="/items/{{ item['id'] }}">{{ item['name'] }}</a>
<p class="by">posted by a member, 12 days ago, 4 answers</p></li>
{% end %}</ul></body></html>
"""


class Page(RequestHandler):
    def get(self) -> None:
        self.set_cookie("seen", "1758000001")
        items = [{"id": number, "class": "item", "name": f"Number <{number}>"} for number in range(23)]
        self.render("page.html", title="Board & more", items=items)


def make_app() -> Application:
    from tornado.template import DictLoader  # noqa: PLC0415 - the measuring process does not need it

    return Application(
        [("/", Hello), ("/api", Api), ("/page", Page)],
        template_loader=DictLoader({"page.html": PAGE}),
        log_function=lambda _: None,
    )


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    if body:
        lines += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + body


# By name: a request, and thousands of instructions that it may cost.
CASES: dict[str, tuple[bytes, int]] = {
    "hello": (request("GET", "/", {"Host": "127.0.0.1"}), 365),
    "hello, 16 headers": (request("GET", "/", BROWSER), 465),
    "API POST, 1 KB": (request("POST", "/api", BROWSER, JSON), 600),
    # 2,630 of Tornado's own
    "page, 3 KB": (request("GET", "/page", BROWSER), 1770),
}


async def serve_bare(port: int) -> None:
    logging.getLogger("tornado.access").setLevel(logging.WARNING)
    application = make_app()
    gc.collect()
    gc.freeze()
    HTTPServer(application, xheaders=True).listen(port, "127.0.0.1")
    await asyncio.Event().wait()


class Counted:
    """A server under callgrind."""

    def __init__(self, command: list[str], port: int, place: Path) -> None:
        self.place = place
        path = os.pathsep.join((os.environ.get("EYEWALL_SOURCE", str(RUNNER)), str(HERE.parent)))
        self.process = subprocess.Popen(
            # it ends with this process, also with one that is killed
            [
                "setpriv",
                "--pdeathsig",
                "KILL",
                "valgrind",
                "--tool=callgrind",
                f"--callgrind-out-file={place}/out",
                sys.executable,
                *command,
            ],
            env=os.environ | {"PYTHONPATH": path, "PYTHONHASHSEED": "0"},
            stderr=subprocess.DEVNULL,
        )
        while True:
            assert self.process.poll() is None, "the server did not start"
            try:
                self.connection = socket.create_connection(("127.0.0.1", port))
            except OSError:
                time.sleep(0.2)
            else:
                return

    def ask(self, content: bytes, number: int) -> None:
        for _ in range(number):
            self.connection.sendall(content)
            answer = b""
            while b"\r\n\r\n" not in answer:
                answer += self.connection.recv(65536)
            head, _, body = answer.partition(b"\r\n\r\n")
            match = re.match(rb"HTTP/1.1 200 .*^Content-Length: (\d+)", head, re.DOTALL | re.MULTILINE)
            assert match, answer
            while len(body) < int(match[1]):
                body += self.connection.recv(65536)

    def control(self, option: str) -> None:
        subprocess.run(["callgrind_control", option, str(self.process.pid)], check=True, stdout=subprocess.DEVNULL)

    def count(self, content: bytes) -> float:
        """Return thousands of instructions per request."""
        self.ask(content, WARM)
        self.control("-z")
        self.ask(content, COUNTED)
        self.control("-d")
        newest = max(self.place.glob("out.*"), key=lambda file: file.stat().st_mtime_ns)
        match = re.search(r"^(?:totals|summary): (\d+)", newest.read_text(), re.MULTILINE)
        assert match
        return int(match[1]) / COUNTED / 1000

    def stop(self) -> None:
        self.connection.close()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description="Count the instructions of a request.")
    parser.add_argument("--bare", action="store_true", help="of Tornado's own server")
    parser.add_argument("--serve-bare", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help="options of the runner, after --")
    given = parser.parse_args()
    if given.serve_bare:
        import uvloop  # noqa: PLC0415 - the measuring process does not need it

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_bare(given.serve_bare))
    if not shutil.which("valgrind"):
        sys.exit("valgrind is needed: apt-get install -y valgrind")
    port = free_port()
    bare = [str(HERE), "--serve-bare", str(port)]
    eyewall = ["-m", "eyewall", "--port", str(port), "--watchdog", "0", *given.options, f"{HERE.stem}:make_app"]
    wrong = 0
    with tempfile.TemporaryDirectory() as place:
        server: Any = Counted(bare if given.bare else eyewall, port, Path(place))
        try:
            for name, (content, limit) in CASES.items():
                thousands = server.count(content)
                above = bool(limit) and not given.bare and thousands > limit * ALLOWED
                wrong |= above
                print(f"{name}: {thousands:,.0f} k of {limit or 'any'}{' TOO MANY' * above}", flush=True)
        finally:
            server.stop()
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
