"""What a request brings along: the client's address, the scheme, an id."""

from collections.abc import Callable

import pytest
from eyewall.counters import Counters
from eyewall.proxy_headers import ProxyHeaders
from eyewall.server import Server
from support.runner import Eyewall, receive_answer
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPHeaders
from tornado.web import Application

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
CLAIM = {"X-Real-IP": "203.0.113.9", "X-Scheme": "https", "X-Request-Id": "from-nginx-1"}


def test_a_trusted_peer_is_believed(server: Eyewall) -> None:
    answer = server.get(headers=CLAIM)
    assert (answer["ip"], answer["protocol"]) == ("203.0.113.9", "https")
    assert " from-nginx-1 sample: hello" in server.logged("hello from")


def test_others_are_not(start: Start) -> None:
    server = start(SAMPLE, "--trusted", "10.0.0.0/8").ready()
    answer = server.get(headers=CLAIM)
    assert (answer["ip"], answer["protocol"]) == ("127.0.0.1", "http")
    assert "from-nginx-1" not in server.logged("hello from")


def test_a_network_is_trusted(start: Start) -> None:
    server = start(SAMPLE, "--trusted", "10.0.0.0/8", "--trusted", "127.0.0.0/8").ready()
    assert server.get(headers=CLAIM)["ip"] == "203.0.113.9"


def test_a_claim_holds_for_one_request(server: Eyewall) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX-Real-IP: 203.0.113.9\r\nX-Request-Id: a\r\n\r\n")
        assert b"203.0.113.9" in receive_answer(connection)[1]
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b'"ip": "127.0.0.1"' in receive_answer(connection)[1]
    assert [" a sample" in line for line in server.log.splitlines() if "hello" in line] == [True, False]


def test_every_request_has_an_id_of_its_own(server: Eyewall) -> None:
    for _ in range(3):
        server.get(headers={"X-Request-Id": "two words"})
    ids = [line.split()[3] for line in server.log.splitlines() if "hello" in line]
    assert len(set(ids)) == 3
    assert "-" not in ids
    assert not any('"two' in line or " two " in line for line in server.log.splitlines())


def test_a_line_of_the_log(server: Eyewall) -> None:
    server.get(headers={"X-Request-Id": "abc"})
    line = server.logged("hello from /")
    stamp, level, port, identity, name, *message = line.split()
    assert stamp[10] == "T"
    assert stamp[-5] == "."
    assert stamp[-1] == "Z"
    assert (level, port, identity, name) == ("INFO", str(server.port), "abc", "sample:")
    assert message == ["hello", "from", "/"]


def test_accesses_are_not_logged_but_failures_are(server: Eyewall) -> None:
    server.get("/?fine")
    client = server.client()
    client.request("GET", "/missing", headers={"X-Request-Id": "abc"})
    assert client.getresponse().status == 404
    client.close()
    assert "WARNING" in server.logged("abc tornado.access: 404 GET /missing (127.0.0.1)")
    assert "?fine" not in server.log


def test_a_client_neither_begins_a_line_nor_obtains_a_terminal(start: Start) -> None:
    server = start(SAMPLE, "--log-level", "debug").ready()
    for head in (
        b"GET /\x9b2J\xc2\x9b3J HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x9b31mred\r\nConnection: close\r\n\r\n",
        b"POST /say HTTP/1.1\r\nHost: x\r\nContent-Length: 23\r\nConnection: close\r\n\r\n"
        b"two\n2026-01-01\x1b[2J\x00\r\xe2\x80\xae",
    ):
        with server.connect() as connection:
            connection.sendall(head)
            while connection.recv(65536):
                pass
    server.logged(r"404 GET /\x9b2JÂ\x9b3J (127.0.0.1)")
    server.logged(r"Unsupported Transfer-Encoding \x9b31mred")
    server.logged("sample: said: two")
    server.logged("\t2026-01-01" + r"\x1b[2J\x00\r\u202e")
    assert all(one.isprintable() or one in "\n\t" for one in server.log)


def test_accesses_are_logged_on_request(start: Start) -> None:
    server = start(SAMPLE, "--log-level", "debug").ready()
    server.get("/?fine")
    assert "INFO" in server.logged("tornado.access: 200 GET /?fine (127.0.0.1)")


@pytest.mark.parametrize(
    ("headers", "client", "scheme"),
    [
        ({}, None, None),
        ({"X-Real-Ip": "203.0.113.9"}, "203.0.113.9", None),
        ({"X-Real-Ip": "2001:db8::1"}, "2001:db8::1", None),
        ({"X-Real-Ip": "unknown"}, None, None),
        ({"X-Real-Ip": "203.0.113.9", "X-Forwarded-For": "198.51.100.1"}, "203.0.113.9", None),
        ({"X-Forwarded-For": "192.0.2.1, 203.0.113.9"}, "203.0.113.9", None),
        ({"X-Forwarded-For": "203.0.113.9, 10.1.2.3"}, "203.0.113.9", None),
        ({"X-Forwarded-For": "203.0.113.9,"}, None, None),
        ({"X-Scheme": "https"}, None, "https"),
        ({"X-Forwarded-Proto": "http, https"}, None, "https"),
        ({"X-Scheme": "http", "X-Forwarded-Proto": "https"}, None, "http"),
        ({"X-Scheme": "javascript"}, None, None),
    ],
)
def test_headers_are_read_as_tornado_reads_them(
    headers: dict[str, str], client: str | None, scheme: str | None
) -> None:
    proxies = ProxyHeaders(["10.0.0.0/8"])
    assert proxies.client(HTTPHeaders(headers)) == client
    assert proxies.scheme(HTTPHeaders(headers)) == scheme


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("4bf92f35", "4bf92f35"), ("a b", None), ("", None), ("x" * 129, None), ("é", None), ("a\x1b[2J", None)],
)
def test_a_request_id_is_taken_if_it_is_well_formed(given: str, wanted: str | None) -> None:
    headers = HTTPHeaders()
    headers._as_list["X-Request-Id"] = [given]
    assert ProxyHeaders().request_id(headers) == wanted


def test_it_can_be_put_beneath_a_program_that_makes_its_own_server() -> None:
    application, counters = Application(), Counters()
    HTTPServer.configure(Server, counters=counters)
    try:
        server = HTTPServer(application, xheaders=True)
    finally:
        HTTPServer.configure(None)
    assert isinstance(server, Server)
    assert server.counters is counters
    assert not server.xheaders
    assert type(HTTPServer(application)) is HTTPServer
