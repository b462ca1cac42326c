"""How many instructions does a request cost? The runner's processor instructions in user mode, counted by callgrind.

    python benchmarks/instructions.py
    python benchmarks/instructions.py --bare     # Tornado's own HTTPServer, for comparison

The figures are the same on a busy machine within some 2 %, where times of two equal servers differ by 10 %. One process on
uvloop answers one kept-alive connection. Ends with status 1 if a case costs more than `ALLOWED` times its limit.
"""

import json
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from on_host.ports import free_port
from one_server import BROWSER, Hello, exceeds, parse, request, running
from tornado.web import Application, RequestHandler

HERE = Path(__file__).resolve()
WARM, COUNTED = 120, 200
JSON = json.dumps({"items": [{"id": number, "name": f"number {number}"} for number in range(30)]})[:1020].encode()


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


# By name: a request, and thousands of instructions that it may cost.
CASES: dict[str, tuple[bytes, int]] = {
    "hello": (request("GET", "/", {"Host": "127.0.0.1"}), 365),
    "hello, 16 headers": (request("GET", "/", BROWSER), 465),
    "API POST, 1 KB": (request("POST", "/api", BROWSER, JSON), 600),
    # 2,630 of Tornado's own
    "page, 3 KB": (request("GET", "/page", BROWSER), 1770),
}


class Counted:
    """A server under callgrind, and the connection on which it is asked."""

    def __init__(self, pid: int, connection: socket.socket, place: Path) -> None:
        self.pid = pid
        self.connection = connection
        self.place = place

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
        subprocess.run(["callgrind_control", option, str(self.pid)], check=True, stdout=subprocess.DEVNULL)

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


def main() -> int:
    given = parse("Count the instructions of a request.", make_app)
    if not shutil.which("valgrind"):
        sys.exit("valgrind is needed: apt-get install -y valgrind")
    port = free_port()
    with tempfile.TemporaryDirectory() as place:
        callgrind = ("valgrind", "--tool=callgrind", f"--callgrind-out-file={place}/out")
        with (
            running(HERE, given, port, *callgrind) as pid,
            socket.create_connection(("127.0.0.1", port)) as connection,
        ):
            server = Counted(pid, connection, Path(place))
            exceeding = [
                exceeds(given, name, server.count(content), "k", limit) for name, (content, limit) in CASES.items()
            ]
    return int(any(exceeding))


if __name__ == "__main__":
    sys.exit(main())
