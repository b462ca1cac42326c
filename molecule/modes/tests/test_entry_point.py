"""What a client sees of the whole stack is what Tornado itself would answer, but for what stands in MEANT."""

import contextlib
import gzip
import hashlib
import json
import re
import shutil
import socket
import subprocess
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from support import REPOSITORY
from support.ambiguous import AMBIGUOUS, FORGED
from support.entry_point_cases import CASES, MEANT, Difference, request
from support.fleet import Fleet
from support.product import render, with_error_pages
from support.raw_client import Answer, ask
from support.waiting import until

HAPROXY = shutil.which("haproxy", path="/usr/sbin:/usr/bin") or "haproxy"  # scripts/system-packages haproxy
PORTS = {"direct": 8142, "other": 8143, "haproxy": 8144, "statistics": 8145, "alone": 8146}


@contextlib.contextmanager
def listening(command: list[str], port: int, log: Path) -> Iterator[None]:
    """Run a program that listens on a port of this machine."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def answers() -> bool:
        assert process.poll() is None, log.read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        until(answers, f"{command[0]} on port {port}")
        yield
    finally:
        process.terminate()
        process.wait(30)


def haproxy_cfg(place: Path, server: str, port: str = "haproxy") -> Path:
    """Write the role's configuration for a HAProxy of this user, in front of the host's nginx."""
    text = render(
        "haproxy/etc/haproxy/haproxy.cfg.j2",
        haproxy_port=PORTS[port], haproxy_stats_port=PORTS["statistics"], haproxy_ipv6=False, haproxy_open_files=1024,
        haproxy_applications=[{"name": "app", "server_names": ["_"], "servers": [{"name": "app1", "address": server}]}],
    )  # fmt: skip
    text = re.sub(r"(?m)^ +(user|group|chroot|stats socket) .*\n", "", text)
    path = place / "haproxy.cfg"
    path.write_text(with_error_pages(text, place))
    return path


@pytest.fixture(scope="module")
def entrances(fleet: Fleet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """Ports of this machine: the process itself, the host's nginx before it, and a HAProxy before that."""
    run = fleet.play(
        "deploy",
        tornado_app_factory="testapp.mirror:make_app",
        tornado_app_health_path="/",
        tornado_app_smoke_paths=["/"],
        tornado_app_settings={"MIRROR_STATIC_PREFIX": "/assets/"},
    )
    assert run.status == 0, run.output
    place = tmp_path_factory.mktemp("entrances")
    host = yaml.safe_load(fleet.inventory.read_text(encoding="utf-8"))["testapp"]["hosts"]["app1"]
    forward = [
        "ssh",
        "-N",
        "-L",
        f"127.0.0.1:{PORTS['direct']}:127.0.0.1:8000",
        "-L",
        f"127.0.0.1:{PORTS['other']}:127.0.0.1:8001",
        "-p",
        str(host["ansible_port"]),
        "deploy@127.0.0.1",
    ]
    forward += [
        "-i",
        str(REPOSITORY / ".local/ssh/id_ed25519"),
        "-o",
        "StrictHostKeyChecking=no",
        "-o",
        "UserKnownHostsFile=/dev/null",
    ]
    nginx = urlsplit(fleet.doors["app1"]).netloc
    with contextlib.ExitStack() as running:
        running.enter_context(listening(forward, PORTS["direct"], place / "ssh.log"))
        running.enter_context(
            listening([HAPROXY, "-db", "-f", str(haproxy_cfg(place, nginx))], PORTS["haproxy"], place / "haproxy.log")
        )
        yield {"direct": PORTS["direct"], "nginx": int(nginx.rpartition(":")[2]), "haproxy": PORTS["haproxy"]}


def answered_by(answer: Answer) -> str:
    """Who made an answer: a page of errors is not the application's, and differs from it in everything but the status."""
    if answer.status == 0:
        return "nobody"
    if answer.body.startswith(b"<html><body><h1>"):
        return "HAProxy"
    return "error page" if b"<p>If you ask somebody about this" in answer.body else "application"


def comparable(answer: Answer) -> dict[str, Any]:
    """What of an answer is compared; of the JSON with which the application shows a request, each field of it."""
    by = answered_by(answer)
    found: dict[str, Any] = {"status": answer.status, "by": by}
    if by != "application":
        return found
    found |= {f"header {name.lower()}": answer.all(name) for name, _ in answer.headers}
    found["continued"] = answer.continued
    found["header date"] = bool(found.pop("header date", None))
    body = gzip.decompress(answer.body) if answer.all("Content-Encoding") == ["gzip"] and answer.body else answer.body
    try:
        shown = json.loads(body)
    except ValueError:
        found["body"] = body if len(body) < 300 else (body[:100], len(body))
        return found
    found.pop("header content-length", None)  # of what reached the application, which is compared below
    headers = shown.pop("headers")
    found |= {f"seen {name}": value for name, value in shown.items()}
    return found | {
        f"seen header {name.lower()}": [value for given, value in headers if given == name] for name, _ in headers
    }


@pytest.fixture(scope="module")
def differences(entrances: dict[str, int]) -> list[Difference]:
    found = []
    for case, sent in CASES.items():
        head = sent.startswith(b"HEAD ")
        direct = comparable(ask(entrances["direct"], sent, head=head))
        for entrance in ("nginx", "haproxy"):
            seen = comparable(ask(entrances[entrance], sent, head=head))
            fields = direct.keys() | seen.keys() if direct["by"] == seen["by"] else {"status", "by"}
            found += [
                Difference(case, entrance, field, direct.get(field), seen.get(field))
                for field in sorted(fields)
                if direct.get(field) != seen.get(field)
            ]
    return found


def test_what_differs_is_meant(differences: list[Difference]) -> None:
    unexplained = [one for one in differences if not any(meant.covers(one) for meant in MEANT)]
    assert not unexplained, "\n".join(map(str, unexplained))


def test_what_is_meant_differs(differences: list[Difference]) -> None:
    """The control of the test above, and of the table: what differs no longer is no longer in it."""
    assert MEANT
    assert [meant for meant in MEANT if not any(meant.covers(one) for one in differences)] == []


# ---- Requests that each may read in another way ----


def forgeries() -> int:
    """How often the application was asked for what nginx lets nobody ask for."""
    said = [ask(port, request("GET /forgeries")) for port in (PORTS["direct"], PORTS["other"])]
    return sum(json.loads(answer.body)["times"] for answer in said)


@pytest.mark.parametrize("entrance", ["nginx", "haproxy"])
def test_no_request_in_a_body_is_run_and_no_neighbour_has_its_answer(entrances: dict[str, int], entrance: str) -> None:
    """Each is sent whole and in two parts; neighbours then use the connections that it was passed on by."""
    before = forgeries()
    for name, requests in AMBIGUOUS.items():
        for sent in requests:
            at = sent.find(b"\r\n\r\n") + 4
            for parts in ([sent], [sent[:at], sent[at:]]):
                with socket.create_connection(("127.0.0.1", entrances[entrance]), timeout=20) as client:
                    with contextlib.suppress(OSError):  # it may have been refused already
                        for part in parts:
                            client.sendall(part)
                        client.shutdown(socket.SHUT_WR)
                    for number in range(2):
                        path = f"/neighbour?of={name.replace(' ', '-')}&number={number}"
                        answer = ask(entrances[entrance], request(f"GET {path}"))
                        assert (answer.status, json.loads(answer.body)["uri"]) == (200, path), name
    assert forgeries() == before
    assert ask(entrances[entrance], FORGED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).status == 404, (
        "nginx: nobody"
    )
    assert ask(PORTS["direct"], FORGED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")).status == 200
    assert forgeries() == before + 1, "the control: the application counts"


# ---- What they answer by themselves ----

TOO_LARGE = request("GET /a", f"Cookie: {'x' * 40000}", "Accept: text/html")


def test_an_error_page_says_what_happened_and_how_it_is_found(fleet: Fleet, entrances: dict[str, int]) -> None:
    answer = ask(entrances["nginx"], TOO_LARGE)
    assert (answer.status, answer.all("Content-Type"), answer.all("Cache-Control")) == (
        431,
        ["text/html"],
        ["no-store"],
    )
    (known,) = answer.all("X-Request-Id")
    assert f"<code>{known}</code>".encode() in answer.body
    assert b"<h1>431</h1>" in answer.body
    assert b"cookies among them, are too large" in answer.body
    command = "grep --no-messages --fixed-strings %s /var/log/nginx/access.log"
    line = until(lambda: fleet.host("app1").run(command, known).stdout, "the line of the log")
    assert json.loads(line)["status"] == 431, line
    assert ask(entrances["nginx"], TOO_LARGE).all("X-Request-Id") != [known], "the control: each request has its own"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request("GET /a", "Accept: application/json", f"Cookie: {'x' * 40000}"), 431),
        (request("GET /cookies?n=10&size=4000", "Accept: application/json"), 502),
        (request("POST /m", "Content-Length: 2000000", "Accept: application/problem+json"), 413),
        (request("GET /static/nothing.js?v=0", "Accept: application/json"), 404),
        (request("POST /static/testapp.css", "Content-Length: 0", "Accept: application/json"), 405),
        (request("GET /static/nothing.js?v=0", f"Accept: {','.join(['application/json'] * 1000)}"), 404),
    ],
    ids=["431", "502", "413", "404", "405", "a thousand types"],
)
def test_it_is_json_for_who_accepts_nothing_else(entrances: dict[str, int], sent: bytes, status: int) -> None:
    answer = ask(entrances["nginx"], sent)
    said = json.loads(answer.body)
    assert (answer.status, said["status"], answer.all("Content-Type")) == (status, status, ["application/json"])
    assert answer.all("X-Request-Id") == [said["request_id"]]
    assert said["message"].endswith(".")
    page = ask(entrances["nginx"], re.sub(rb"Accept: [^\r]*", b"Accept: */*", sent))
    assert (page.status, answered_by(page)) == (status, "error page")


def test_a_balancer_without_a_host_has_the_same_page(tmp_path: Path) -> None:
    text = haproxy_cfg(tmp_path, "127.0.0.1:1", "alone")
    with listening([HAPROXY, "-db", "-f", str(text)], PORTS["alone"], tmp_path / "log"):
        sent = request("GET /a")
        answer = until(lambda: (found := ask(PORTS["alone"], sent)).status == 503 and found, "the host to be out")
    assert (answered_by(answer), answer.all("Cache-Control")) == ("error page", ["no-store"])
    (known,) = answer.all("X-Request-Id")
    assert f"<code>{known}</code>".encode() in answer.body


# ---- Static files ----


@pytest.mark.parametrize("entrance", ["nginx", "haproxy"])
def test_no_old_version_is_kept_below_another_prefix(entrances: dict[str, int], entrance: str) -> None:
    """nginx serves /static/; below another `static_url_prefix` it is Tornado, which keeps whatever has a ?v= for ten years."""
    old = ask(entrances[entrance], request("GET /assets/testapp.css?v=00000000"))
    assert (old.status, [value for value in old.all("Cache-Control") if "315360000" in value]) == (200, [])
    current = hashlib.sha512(old.body).hexdigest()
    new = ask(entrances[entrance], request(f"GET /assets/testapp.css?v={current}"))
    assert new.all("Cache-Control") == ["max-age=315360000"], "the control: what the version names is kept"


# ---- What is flushed ----


@pytest.mark.parametrize("entrance", ["direct", "nginx", "haproxy"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "text/event-stream"])
def test_what_is_flushed_arrives_as_it_is_written(entrances: dict[str, int], entrance: str, kind: str) -> None:
    """Each line is written when the one before has been seen, so one that is held back would be waited for in vain."""
    sent = request(f"GET /lines?type={kind}", "Accept-Encoding: gzip")
    unpacked = zlib.decompressobj(wbits=31)
    address = ("127.0.0.1", entrances[entrance])
    with socket.create_connection(address, timeout=20) as client, client.makefile("rb") as stream:
        client.sendall(sent)
        assert b" 200 " in stream.readline()
        headers = list(iter(lambda: stream.readline().strip().lower(), b""))
        packed = b"content-encoding: gzip" in headers
        text = b""
        for number in range(5):
            while text.count(b"\n") <= number:
                size = int(stream.readline(), 16)
                assert size, "it has ended"
                part = stream.read(size)
                text += unpacked.decompress(part) if packed else part
                stream.readline()
            for process in (PORTS["direct"], PORTS["other"]):
                assert ask(process, request("POST /seen", "Content-Length: 0")).status == 200
    assert [json.loads(line)["line"] for line in text.splitlines()] == list(range(5))
