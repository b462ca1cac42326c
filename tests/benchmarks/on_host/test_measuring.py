"""What the benchmarks make of what they measure: a wrong figure looks as good as a right one."""

import asyncio
import io
import json
import re
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import settings
from results import Results
from servers import replaced
from settings import NGINX
from side_by_side import Options, Subject, compare, cpu_seconds, descendants, figures_of
from support import REPOSITORY
from support.nginx_blocks import parse
from support.product import nginx_conf

ON_HOST = REPOSITORY / "benchmarks" / "on_host"

WRK = """\
Running 1s test @ http://127.0.0.1:8000/
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.27ms  200.00us   9.00ms   90.00%
  Latency Distribution
     50%  900.00us
     75%    1.32ms
     90%    1.40ms
     99%    1.02s
  20000 requests in 2.00s, 2.00MB read
Requests/sec:  10000.50
Transfer/sec:      1.00MB
"""


def document(results: Any) -> Any:
    stream = io.StringIO()
    results.write(stream)
    return json.loads(stream.getvalue())


def test_ratios_are_taken_round_by_round() -> None:
    results = Results("part", "method")
    results.add_figure("hello", "A", "rate", "1/s", [100, 300, 200])
    results.add_figure("hello", "B", "rate", "1/s", [200, 100, 50])
    results.add_ratio("hello", "A", "B", "rate", wanted=1.5)
    (ratio,) = document(results)["ratios"]
    # of 0.5, 3 and 4; the ratio of the medians would be 2
    assert (ratio["low"], ratio["median"], ratio["high"], ratio["wanted"]) == (0.5, 3, 4, 1.5)
    assert document(results)["figures"][0]["values"] == [100, 300, 200]


def test_a_subject_with_an_error_has_neither_figure_nor_ratio() -> None:
    results = Results("part", "method")
    for case in ("hello", "page"):
        for subject in ("A", "B"):
            results.add_figure(case, subject, "rate", "1/s", [1, 2])
        results.add_ratio(case, "A", "B", "rate")
    results.add_error("page", "B", "one answer in a million was a 502")
    found = document(results)
    assert [(entry["case"], entry["subject"]) for entry in found["figures"]] == [
        ("hello", "A"), ("hello", "B"), ("page", "A"),
    ]  # fmt: skip
    assert [entry["case"] for entry in found["ratios"]] == ["hello"]
    assert [entry["subject"] for entry in found["errors"]] == ["B"]


def test_what_wrk_prints_is_read_with_its_units() -> None:
    assert figures_of(WRK, {"nginx": 1.0, "Tornado": 2.0}) == {
        "requests per second": 10000.5,
        "p50": pytest.approx(0.9),
        "p99": 1020,
        "CPU time per request": pytest.approx(150),
        "CPU time per request, nginx": pytest.approx(50),
        "CPU time per request, Tornado": pytest.approx(100),
    }


@pytest.mark.parametrize(
    "line", ["  Socket errors: connect 0, read 1, write 0, timeout 0", "  Non-2xx or 3xx responses: 1"]
)
def test_one_failed_request_is_an_error(line: str) -> None:
    with pytest.raises(ValueError, match=line.strip()):
        figures_of(f"{WRK}{line}\n", {"nginx": 1.0})


@pytest.mark.parametrize("url", ["http://192.0.2.1/", "http://localhost/", "http://127.0.0.1.example/"])
def test_only_loopback_is_loaded(url: str) -> None:
    with pytest.raises(ValueError, match="is not loaded"):
        Subject("A", url, {}, lambda _: "")


def test_the_time_of_children_counts() -> None:
    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'print(sum(range(20_000_000))); input()'])"
    parent = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout
        parent.stdout.readline()
        both = descendants([parent.pid])
        assert len(both) == 2
        assert cpu_seconds(both) > 2 * cpu_seconds([parent.pid])
        parent.communicate("\n")


class Failing(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/right" else 500)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_a_subject_that_answers_wrongly_is_not_loaded() -> None:
    results = Results("part", "method")
    with ThreadingHTTPServer(("127.0.0.1", 0), Failing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/wrong"
        subject = Subject("A", url, {}, lambda answer: "" if answer.status == 200 else f"answered {answer.status}")
        compare(results, "hello", [subject], Options(rounds=1, seconds=1, connections=1))
        server.shutdown()
    assert document(results)["figures"] == []
    assert document(results)["errors"] == [{"case": "hello", "subject": "A", "text": "answered 500"}]


def test_each_setting_is_in_what_the_roles_write_and_a_missing_one_is_an_error() -> None:
    written = nginx_conf()
    for case, _, _, change in NGINX:
        other = replaced(written, change)
        assert parse(other)  # it is whole
        assert other != written, case
    one = next(change for case, _, _, change in NGINX if case == "tornado_app_processes")
    assert len(re.findall(r"^ *server 127", written, re.MULTILINE)) > 1
    assert len(re.findall(r"^ *server 127", replaced(written, one), re.MULTILINE)) == 1
    with pytest.raises(ValueError, match="nothing that matches '\\^gone;'"):
        replaced(written, {"^gone;": ""})


def test_a_storm_ends_when_every_connection_was_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answered(line: bytes) -> tuple[float, int]:
        asked = 0

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            await reader.readuntil(b"\r\n\r\n")
            asked += 1
            await asyncio.sleep(0.2)
            writer.write(line)
            writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1") as server:
            try:
                return await settings.storm(server.sockets[0].getsockname()[1]), asked
            finally:
                await asyncio.sleep(0.5)  # until each has closed its end

    monkeypatch.setattr(settings, "STORM", 20)
    seconds, asked = asyncio.run(answered(b"HTTP/1.1 200 OK\r\n\r\n"))
    assert asked == 20
    assert 0.2 <= seconds < 5
    with pytest.raises(ExceptionGroup) as refused:
        asyncio.run(answered(b"HTTP/1.1 503 Busy\r\n\r\n"))
    assert "503 Busy" in str(refused.value.exceptions[0])
    monkeypatch.setattr(settings, "STORM_SECONDS", 0.05)
    with pytest.raises(TimeoutError):
        asyncio.run(answered(b"HTTP/1.1 200 OK\r\n\r\n"))
