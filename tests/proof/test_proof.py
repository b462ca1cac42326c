"""The traffic client counts honestly: what is lost is reported, what is not is not, and the report adds up."""

import asyncio
import csv
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support import REPOSITORY
from support.runner import Eyewall, ask_admin
from support.tls_door import HAPROXY, TLSDoor
from support.waiting import until

from proof import Report, Request, Traffic, loopback
from proof.client import Client, Door, echo
from proof.report import HTTP2_KINDS, KINDS

pytestmark = pytest.mark.slow
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")

TESTAPP = REPOSITORY / "tests" / "apps" / "testapp" / "src" / "testapp"
RATE = 200.0
# A page that is not there names no files, so a lost asset is a matter of the moment; so is a message.
LOST_WITH_A_PROCESS = set(KINDS) - {"asset", "WebSocket message"}

# The same application, but: no file has the bytes of its version, downloads are cut, POSTs are answered by nobody,
# WebSockets end without a word.
LIAR = """
import testapp.application as testapp

class Static(testapp.Static):
    @classmethod
    def get_version(cls, settings, path):
        return "0" * 128

class Download(testapp.Download):
    async def flush(self):
        await super().flush()
        self.request.connection.stream.close()

class Echo(testapp.Echo):
    def post(self):
        self.set_status(502)

class Live(testapp.Live):
    def on_message(self, message):
        super().on_message(message)
        self.ws_connection.stream.close()

testapp.Static, testapp.Download, testapp.Echo, testapp.Live = Static, Download, Echo, Live
make_app = testapp.make_app
"""

Start = Callable[..., Eyewall]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start processes; the testapp is in the directory that they start in, which is on the path of ``python -m``."""
    directory = tmp_path_factory.mktemp("testapp")
    shutil.copytree(TESTAPP, directory / "testapp")
    (directory / "liar.py").write_text(LIAR)
    started: list[Eyewall] = []

    def start(target: str = "testapp:make_app", release: str = "1.0.0", port: int = 0) -> Eyewall:
        started.append(Eyewall(directory, target, "--release", release, "--drain-timeout", "10", port=port))
        return started[-1]

    yield start
    for server in started:
        server.kill()
        sys.stdout.write(server.log)


def door(server: Eyewall) -> str:
    return f"http://127.0.0.1:{server.port}"


@pytest.fixture(scope="module")
def calm(start: Start) -> Report:
    """A real handover, straight at a port: 1.0.1 joins it, then 1.0.0 is told to stop."""
    old = start().ready()
    with Traffic({"app": door(old)}, RATE) as traffic:
        time.sleep(0.5)
        with traffic.during("handover"):
            start(release="1.0.1", port=old.port).ready()
            old.terminate()
            assert old.wait() == 0
        time.sleep(0.5)
    return traffic.report


@pytest.fixture(scope="module")
def rough(start: Start) -> Report:
    """A process that is killed and started again, and one that lies."""
    killed, liar = start(), start("liar:make_app").ready()
    with Traffic({"killed": door(killed.ready()), "liar": door(liar)}, RATE) as traffic:
        time.sleep(0.6)
        traffic.mark("killed")
        killed.send(signal.SIGKILL)
        killed.wait()
        until(lambda: {request.kind for request in traffic.report.only(door="killed").lost} >= LOST_WITH_A_PROCESS)
        start(release="1.0.1", port=killed.port).ready()
        traffic.mark("back")
        time.sleep(0.5)
    return traffic.report


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[Callable[[Eyewall], TLSDoor]]:
    """HAProxy with TLS before a process."""
    doors: list[TLSDoor] = []

    def before(server: Eyewall) -> TLSDoor:
        folder = tmp_path / str(len(doors))
        folder.mkdir()
        doors.append(TLSDoor(folder, server.port))
        return doors[-1]

    yield before
    for one in doors:
        one.stop()


@needs_haproxy
def test_over_tls_and_http2_a_handover_and_another_certificate_lose_nothing(
    start: Start, tls: Callable[[Eyewall], TLSDoor]
) -> None:
    old = start().ready()
    front = tls(old)
    with Traffic({"app": front.url}, RATE, ca=front.ca) as traffic:
        time.sleep(0.5)
        start(release="1.0.1", port=old.port).ready()
        old.terminate()
        for _ in range(20):
            lines = "\n".join(line for line in front.issue().splitlines() if line)
            assert "ransaction" in front.ask(f"set ssl cert {front.pem} <<\n{lines}\n")
            assert "Success" in front.ask(f"commit ssl cert {front.pem}")
        assert old.wait() == 0
        time.sleep(0.5)
    assert traffic.report.lost == [], traffic.report.table()
    assert list(traffic.report.releases()) == ["1.0.0", "1.0.1"]
    assert {kind for kind in (*KINDS, *HTTP2_KINDS) if not traffic.report.count(kind)} == set(), (
        "the control: of every kind"
    )


@needs_haproxy
def test_over_tls_and_http2_what_is_wrong_is_lost(start: Start, tls: Callable[[Eyewall], TLSDoor]) -> None:
    front = tls(start("liar:make_app").ready())
    with Traffic({"liar": front.url}, RATE, ca=front.ca) as traffic:
        time.sleep(1.5)
    lost = Counter(request.kind for request in traffic.report.lost)
    assert {"asset", "download", "POST kept", "POST new", "WebSocket", "POST HTTP/2"} <= set(lost), lost
    assert traffic.report.only("GET HTTP/2").lost == []


@needs_haproxy
def test_a_certificate_that_is_not_trusted_is_lost(start: Start, tls: Callable[[Eyewall], TLSDoor]) -> None:
    server = start().ready()
    front, other = tls(server), tls(server)
    with Traffic({"app": front.url}, RATE, ca=other.ca) as traffic:
        time.sleep(0.5)
    assert {request.fate for request in traffic.report.requests} == {"lost"}
    assert all("CERTIFICATE_VERIFY_FAILED" in request.detail for request in traffic.report.lost), traffic.report.table()


def test_a_handover_loses_nothing(calm: Report) -> None:
    assert calm.lost == []
    assert list(calm.releases()) == ["1.0.0", "1.0.1"]
    assert {kind: calm.count(kind) for kind in KINDS if not calm.count(kind)} == {}
    (handover,) = calm.marks
    over_it = [r.kind for r in calm.requests if r.start < handover.start and r.end > handover.start]
    assert {"GET slow", "POST slow", "upload", "download"} <= set(over_it)


def test_every_websocket_is_told_and_lands_on_the_new_release(calm: Report) -> None:
    told = calm.only("WebSocket", "told").requests
    assert [request.release for request in told] == ["1.0.0"] * 4
    assert [request.release for request in calm.only("WebSocket", "answered").requests] == ["1.0.1"] * 4


def test_a_killed_process_is_reported(rough: Report) -> None:
    killed = rough.only(door="killed")
    death, back = (mark.end for mark in rough.marks)
    lost = Counter(request.kind for request in killed.lost)
    assert set(lost) >= LOST_WITH_A_PROCESS, lost
    assert all(death - 0.1 < request.end < back + 0.5 for request in killed.lost)
    assert any("ConnectionRefusedError" in request.detail for request in killed.lost)
    assert killed.count("WebSocket", "told") == 0
    assert list(killed.releases()) == ["1.0.0", "1.0.1"]


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("asset", "wrong SHA-512"),
        ("download", "closed after 10000 bytes"),
        ("POST kept", "wrong status: '502'"),
        ("POST new", "wrong status: '502'"),
    ],
)
def test_a_wrong_answer_is_reported(rough: Report, kind: str, says: str) -> None:
    liar = rough.only(kind, door="liar")
    assert liar.requests
    assert [request for request in liar.requests if says not in request.detail] == []
    assert {(request.fate, request.host) for request in liar.requests} == {("lost", socket.gethostname())}


def test_a_websocket_that_ends_without_a_close_frame_is_reported(rough: Report) -> None:
    # on a busy machine some are lost in another way as well
    lost = rough.only("WebSocket", "lost", "liar").requests
    assert sum("ended without being told: EOFError" in request.detail for request in lost) > 4
    assert rough.count("WebSocket", "told", "liar") == 0


@pytest.mark.parametrize("kind", ["GET kept", "GET new", "GET slow", "POST slow", "upload", "page"])
def test_the_right_answers_beside_it_are_not(rough: Report, kind: str) -> None:
    assert rough.count(kind, door="liar") == rough.count(kind, "answered", "liar") > 0


def content(method: str) -> bytes:
    """Return the testapp's answer to ``echo(…, 7)``."""
    body = b"7" * 100
    return json.dumps(
        {"text": "7"} if method == "GET" else {"length": 100, "sha256": sha256(body).hexdigest()}
    ).encode()


@pytest.mark.parametrize(
    ("method", "script", "fates"),
    [
        ("GET", "whole whole", "answered answered"),
        ("GET", "whole nothing whole", "answered resent"),
        ("GET", "whole nothing nothing", "answered lost"),  # once is what the RFC allows
        ("GET", "whole part whole", "answered lost"),  # of this answer, something had come
        ("GET", "whole silence", "answered lost"),
        ("GET", "nothing whole", "lost answered"),  # a new connection
        ("GET", "garbage whole", "lost answered"),
        ("GET", "endless whole", "lost answered"),  # it might be cut
        ("POST", "whole whole", "answered answered"),
        ("POST", "whole nothing whole", "answered lost"),  # it may have been carried out
    ],
)
def test_only_a_get_on_a_used_connection_that_said_nothing_is_resent(
    monkeypatch: pytest.MonkeyPatch, method: str, script: str, fates: str
) -> None:
    monkeypatch.setattr("proof.client.TIMEOUT", 0.2)
    body = content(method)
    whole = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    endless = b"HTTP/1.1 200 OK\r\n\r\n" + body
    words = {
        "whole": whole,
        "part": whole[:10],
        "nothing": b"",
        "silence": None,
        "garbage": b"nonsense\r\n\r\n",
        "endless": endless,
    }
    pieces = iter([words[word] for word in script.split()])
    found: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(65536):
            piece = next(pieces)
            writer.write(piece or b"")
            if piece not in (whole, None):
                break
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1")
        app = Door("app", *server.sockets[0].getsockname())
        connection = app.connection()
        for _ in fates.split():
            await Client(found.append).asked(app, connection, echo("any", method, "/", 7))
        connection.close()
        await asyncio.sleep(0.01)  # the server closes its side
        server.close()

    asyncio.run(ask())
    assert [request.fate for request in found] == fates.split(), found


@pytest.mark.parametrize(("slowness", "fate"), [(1, "lost"), (100, "answered")])
def test_a_slow_machine_has_more_time(monkeypatch: pytest.MonkeyPatch, slowness: float, fate: str) -> None:
    monkeypatch.setattr("proof.client.TIMEOUT", 0.2)
    found: list[Request] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await asyncio.sleep(0.4)
        body = content("GET")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1")
        app = Door("app", *server.sockets[0].getsockname())
        connection = app.connection()
        await Client(found.append, slowness).asked(app, connection, echo("any", "GET", "/", 7))
        connection.close()
        await asyncio.sleep(0.5)  # the server sees that, too
        server.close()

    asyncio.run(ask())
    assert [request.fate for request in found] == [fate], found


@pytest.fixture(params=["calm", "rough"])
def report(request: pytest.FixtureRequest) -> Report:
    chosen: Report = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def saved(report: Report, tmp_path: Path) -> list[dict[str, str]]:
    """Save the report, and return the records as anybody would read them."""
    report.save(tmp_path)
    with (tmp_path / "requests.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_agrees_with_the_records(saved: list[dict[str, str]], tmp_path: Path) -> None:
    text = (tmp_path / "report.txt").read_text()
    lines = {
        tuple(re.split(r"  +", line)[:5]) for line in text.replace(",", "").splitlines() if re.search(r"  \d", line)
    }
    expected = set()
    for column in ("kind", "door"):
        for name in {row[column] for row in saved}:
            fates = Counter(row["fate"] for row in saved if row[column] == name)
            expected.add((name, *(str(n) for n in (fates.total(), fates["lost"], fates["resent"], fates["told"]))))
    fates = Counter(row["fate"] for row in saved)
    expected.add(("all", *(str(n) for n in (len(saved), fates["lost"], fates["resent"], fates["told"]))))
    assert lines == expected
    assert f"{fates['lost']} of {len(saved)} requests lost" in text.replace(",", "")


def test_the_json_agrees_with_the_records(saved: list[dict[str, str]], tmp_path: Path) -> None:
    found = json.loads((tmp_path / "report.json").read_text())
    slow = next(row for row in found["kinds"] if row["name"] == "GET slow")
    times = sorted(float(row["seconds"]) for row in saved if row["kind"] == "GET slow" and row["fate"] != "lost")
    assert (slow["p50"], slow["longest"]) == (times[(len(times) - 1) // 2], times[-1])
    assert 2 <= slow["p50"] < 3
    assert found["releases"] == Counter(row["release"] for row in saved if row["fate"] != "lost")
    assert len(found["lost"]) == sum(row["fate"] == "lost" for row in saved)


def columns(path: str) -> dict[float, tuple[float, float]]:
    """Return the bottom and the top of an area's steps, in pixels, by where each step ends."""
    steps = [(float(x), float(y)) for y, x in re.findall(r"V([\d.]+)H([\d.]+)", path)]
    there, back = steps[: len(steps) // 2], steps[len(steps) // 2 :]
    return {x: (low, high) for (x, high), (_, low) in zip(there, reversed(back), strict=True)}


def test_the_picture_agrees_with_the_records(saved: list[dict[str, str]], tmp_path: Path, report: Report) -> None:
    picture = ElementTree.parse(tmp_path / "timeline.svg").getroot()  # noqa: S314 -- our own
    titles = {
        element: title.text or "" for element in picture.iter() for title in element if title.tag.endswith("title")
    }
    answers = {title.split(":")[0]: element for element, title in titles.items() if title.endswith(" answers")}
    expected = Counter(row["release"] for row in saved if row["fate"] != "lost")
    assert {f"{release}: {count:,} answers" for release, count in expected.items()} == {
        titles[element] for element in answers.values()
    }
    stacked = [columns(element.attrib["d"]) for element in answers.values()]
    areas = [sum(low - high for low, high in steps.values()) for steps in stacked]
    shares = [expected[release] / expected.total() for release in answers]
    assert [drawn / sum(areas) for drawn in areas] == pytest.approx(shares, abs=0.005)
    for below, above in itertools.pairwise(stacked):
        assert [above[x][0] for x in below if x in above] == [below[x][1] for x in below if x in above]
    lost = [int(title.split()[0].replace(",", "")) for title in titles.values() if title.endswith(" lost")]
    assert sum(lost) == sum(row["fate"] == "lost" for row in saved)
    texts = {"".join(element.itertext()) for element in picture.iter() if element.tag.endswith("text")}
    assert {mark.label for mark in report.marks} <= texts


@pytest.fixture(scope="module")
def commands(start: Start, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str, Path]]:
    """Run ``python -m proof`` with a command that succeeds, with others, and for a dead door, all at once."""
    server = start().ready()
    directory = tmp_path_factory.mktemp("proof")
    wanted = {
        "good": (door(server), f'echo "$PROOF_DEPLOY" >> {directory}/numbers'),
        "bad": (door(server), 'echo thus; test "$PROOF_DEPLOY" = 1'),
        "stuck": (door(server), "sleep 60"),
        "lossy": ("http://127.0.0.1:1", "true"),
    }
    options = ["--deploys", "3", "--pause", "0.2", "--rate", "40", "--timeout", "1"]
    running = {
        name: subprocess.Popen(
            [sys.executable, "-m", "proof", *options, "--out", directory / name, "--door", f"app={url}", command],
            env=os.environ | {"PYTHONPATH": str(REPOSITORY / "tests")},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, (url, command) in wanted.items()
    }
    done = {}
    for name, process in running.items():
        output, errors = process.communicate(timeout=60)
        done[name] = (process.returncode, output, errors, directory / name)
    return done


Commands = dict[str, tuple[int, str, str, Path]]


def test_the_command_succeeds_if_nothing_was_lost(commands: Commands) -> None:
    status, output, errors, directory = commands["good"]
    assert (status, errors) == (0, ""), output
    assert (directory.parent / "numbers").read_text().split() == ["1", "2", "3"]
    report = json.loads((directory / "report.json").read_text())
    assert [mark["label"] for mark in report["marks"]] == ["deploy 1", "deploy 2", "deploy 3"]
    assert all(report["start"] < mark["start"] <= mark["end"] < report["end"] for mark in report["marks"])
    assert (directory / "report.txt").read_text() in output


def test_the_command_fails_with_the_command_that_it_runs(commands: Commands) -> None:
    status, _, errors, directory = commands["bad"]
    log = directory / "deploy-2.log"
    assert (status, errors) == (1, f"proof: deploy 2 ended with status 1; what it said is in {log}\n")
    assert log.read_text() == "thus\n"
    assert not (directory / "deploy-3.log").exists()


def test_the_command_waits_for_nothing_for_ever(commands: Commands) -> None:
    status, _, errors, directory = commands["stuck"]
    log = directory / "deploy-1.log"
    assert (status, errors) == (1, f"proof: deploy 1 took longer than 1 s; what it said is in {log}\n")


def test_the_command_fails_if_requests_were_lost(commands: Commands) -> None:
    status, _, errors, directory = commands["lossy"]
    assert status == 1
    assert re.fullmatch(rf"proof: (.+) of \1 requests lost; each is in {directory}/report.json\n", errors)


@pytest.mark.parametrize(
    "url",
    [
        "http://192.0.2.1:80",
        "http://www.example.net",
        "http://127.0.0.1.example.net",
        "https://192.0.2.1",
        "https://localhost.example.net",
        "http://127.0.0.1:99999",
        "http://127.0.0.1/echo",
        "127.0.0.1:8080",
    ],
)
def test_no_traffic_leaves_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match=f"^door: got '{re.escape(url)}'; expected http://"):
        Traffic({"app": url})
    assert loopback("https://127.0.0.1")
    assert loopback("https://site.localhost:8443")
    assert loopback("http://[::1]:8080")


def test_traffic_that_dies_proves_nothing(start: Start) -> None:
    with (
        pytest.raises(RuntimeError, match="the process that makes traffic ended with -9"),
        Traffic({"app": door(start().ready())}) as traffic,
    ):
        traffic.process.kill()


def faulty(start: Start, monkeypatch: pytest.MonkeyPatch, **environment: Any) -> Eyewall:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return start()


@pytest.mark.parametrize(
    ("fault", "status", "says"),
    [
        ("import", 2, "importing testapp raised RuntimeError: TESTAPP_FAULT is 'import'"),
        ("typo", 2, "TESTAPP_FAULT: got 'typo'; expected nothing, import, start, health, dies"),
        ("dies", 3, ""),
    ],
)
def test_a_fault_ends_the_testapp(
    start: Start, monkeypatch: pytest.MonkeyPatch, fault: str, status: int, says: str
) -> None:
    server = faulty(start, monkeypatch, TESTAPP_FAULT=fault, TESTAPP_FAULT_AFTER="0.3")
    assert server.wait() == status
    assert says in server.log


def test_a_testapp_that_never_starts(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = faulty(start, monkeypatch, TESTAPP_FAULT="start")
    time.sleep(1)
    assert server.process.poll() is None
    assert ask_admin(server.admin, "/ready") == (0, "")


def test_an_unhealthy_testapp(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = faulty(start, monkeypatch, TESTAPP_FAULT="health").ready()
    client = server.client()
    client.request("GET", "/health")
    answer = client.getresponse()
    assert (answer.status, answer.headers["X-Release"]) == (500, "1.0.0")
    client.close()
