"""haproxy.cfg: what it says, what HAProxy says of it, and what it does with hosts that die, close and come back."""

import base64
import contextlib
import csv
import functools
import hashlib
import http.client
import http.server
import os
import re
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.product import ROLES, evaluate, evaluate_all, load_yaml, render, with_error_pages
from support.tls_door import TLSDoor

TEMPLATE = "haproxy/etc/haproxy/haproxy.cfg.j2"
STICKY = {"haproxy_sticky": True, "haproxy_sticky_key": "a secret of the site", "app_static_paths": ["/static/"]}
NAMED = {"app_server_names": ["www.example.org", "*.example.net", ".Example.com", "10.0.0.1", "[2001:db8::1]"]}
SERVERS = [{"name": "app1", "address": "10.0.0.11:80"}, {"name": "app2", "address": "[2001:db8::2]:80"}]
BOARD = {
    "name": "board",
    "server_names": ["www.example.org", "*.example.net"],
    "servers": SERVERS,
    "health_path": "/health",
}
CHAT = {"name": "chat", "server_names": ["chat.example.net"], "servers": SERVERS[:1]}
TLS = {"haproxy_certificates": ["/etc/haproxy/certificates/board.pem", "/etc/haproxy/certificates/chat.pem"]}
# a tracking server says whom it follows
DOWN = {"DOWN", "DOWN (app/app1)"}
HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
needs_haproxy = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")


def with_application(given: dict[str, Any]) -> dict[str, Any]:
    """What a test says of its one application (`app_...`), as the role takes it."""
    application = {"app_name": "app", "app_server_names": ["_"], "app_servers": SERVERS}
    application |= {name: value for name, value in given.items() if name.startswith("app_")}
    others = {name: value for name, value in given.items() if not name.startswith("app_")}
    return {
        "haproxy_applications": [{name.removeprefix("app_"): value for name, value in application.items()}]
    } | others


def conf(**given: Any) -> str:
    return render(TEMPLATE, **with_application(given))


def section(text: str, *words: str) -> list[str]:
    """Return the lines of the one section that begins with these words, without comments."""
    (body,) = re.findall(rf"(?m)^{' '.join(words)}$\n((?:(?: .*|#.*)?\n)*)", text)
    return [line.strip() for line in body.splitlines() if line.strip() and not line.strip().startswith("#")]


# ---- What it says ----


def test_it_listens_on_its_port_and_for_statistics_on_loopback_alone() -> None:
    binds = re.findall(r"(?m)^ +bind (.+)$", conf(haproxy_port=8080, haproxy_stats_port=9000))
    assert binds == ["*:8080", "[::]:8080 v6only", "127.0.0.1:9000"]
    assert re.findall(r"(?m)^ +bind (.+)$", conf(haproxy_ipv6=False)) == ["*:80", "127.0.0.1:8404"]


def test_the_runtime_socket_is_for_root() -> None:
    (line,) = [line for line in section(conf(), "global") if line.startswith("stats socket")]
    assert line == "stats socket /run/haproxy/admin.sock user root group root mode 600 level admin expose-fd listeners"


def test_variables_reach_their_directives() -> None:
    text = conf(
        haproxy_open_files=2048,
        haproxy_connect_timeout=2,
        haproxy_server_timeout=30,
        haproxy_tunnel_timeout=40,
        haproxy_keepalive_timeout=5,
        app_name="board",
        app_health_path="/health",
        app_health_host="www.example.org",
        haproxy_health_interval=7,
    )
    assert {"fd-hard-limit 2048", "hard-stop-after 30s"} <= set(section(text, "global"))
    assert {
        "timeout connect 2s", "timeout server 30s", "timeout client 30s", "timeout tunnel 40s", "timeout http-keep-alive 5s",
    } <= set(section(text, "defaults"))  # fmt: skip
    backend = section(text, "backend", "board")
    assert "http-check send meth GET uri /health ver HTTP/1.1 hdr Host www.example.org" in backend
    assert any(line.startswith("default-server check inter 7s ") for line in backend)
    assert "server app2 [2001:db8::2]:80 tcp-ut 5s" in backend
    assert "server app2 [2001:db8::2]:80 track board/app2 tcp-ut 5s" in section(text, "backend", "board-once")


def test_it_waits_longer_than_nginx_which_knows_what_was_wrong() -> None:
    assert evaluate("haproxy_server_timeout > nginx_proxy_read_timeout")
    assert evaluate("haproxy_tunnel_timeout > nginx_proxy_read_timeout")


def test_a_cookie_only_where_it_is_asked_for() -> None:
    assert "cookie" not in conf()
    sticky = conf(**STICKY)
    values = cookies(sticky, "app")
    assert values == cookies(sticky, "app-once")


def cookies(text: str, backend: str) -> list[str]:
    """Return each server's value of the cookie."""
    return [line.split(" cookie ")[1] for line in section(text, "backend", backend) if line.startswith("server ")]


def test_the_cookie_names_no_host_and_is_the_same_on_every_balancer() -> None:
    values = cookies(conf(**STICKY), "app")
    assert len(set(values)) == len(SERVERS)
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in values)
    moved = [{"name": server["name"], "address": f"192.0.2.{number}:80"} for number, server in enumerate(SERVERS)]
    assert cookies(conf(**STICKY, app_servers=list(reversed(moved))), "app") == list(reversed(values))
    assert not set(values) & set(cookies(conf(**STICKY | {"haproxy_sticky_key": "another secret of the site"}), "app"))
    assert STICKY["haproxy_sticky_key"] not in conf(**STICKY)


def test_the_service_always_comes_back() -> None:
    lines = render("haproxy/etc/systemd/system/haproxy.service.d/eyewall.conf.j2").splitlines()
    assert {"StartLimitIntervalSec=0", "Restart=always", "RestartSec=200ms"} <= set(lines)


@needs_haproxy
@pytest.mark.parametrize(
    "given",
    [
        {},
        STICKY,
        {"haproxy_ipv6": False},
        NAMED,
        {"haproxy_trusted_proxies": ["10.0.0.7", "2001:db8::/64"]},
        {"haproxy_trusted_proxies": ["10.0.0.7"], "haproxy_proxy_protocol": True},
    ],
    ids=str,
)
def test_haproxy_takes_it_without_a_warning(given: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "haproxy.cfg"
    file.write_text(with_error_pages(conf(**given), tmp_path))
    assert HAPROXY
    done = subprocess.run([HAPROXY, "-c", "-f", file], capture_output=True, text=True, check=False, timeout=20)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


# ---- What is refused ----


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"haproxy_applications": []}, "a list with one application or more"),
        ({"app_servers": []}, "applications with one host or more"),
        ({"app_servers": [{"name": "a"}]}, "a name and an address"),
        ({"app_servers": [{"address": "a:80"}]}, "a name and an address"),
        ({"app_servers": [{"name": "a", "address": "a:80", "weight": 3}]}, "and nothing else"),
        ({"app_servers": [{"name": "a b", "address": "a:80"}]}, "letters, digits"),
        ({"app_servers": [SERVERS[0], SERVERS[0]]}, "a name of their own"),
        ({"app_servers": [{"name": "a", "address": "10.0.0.1"}]}, "host:port"),
        ({"app_servers": [{"name": "a", "address": "2001:db8::1"}]}, "host:port"),
        ({"haproxy_port": 8404}, "haproxy_stats_port (8404)"),
        ({**TLS, "haproxy_tls_port": 80}, "neither haproxy_port (80) nor haproxy_stats_port (8404) has"),
        ({"haproxy_tls_port": 80}, None),
        ({"haproxy_hsts": -1}, "0 (not at all) or more seconds"),
        ({"haproxy_client_request_rate": -1}, "0 (no limit) or more"),
        ({"haproxy_server_ca": "/a"}, "a file when haproxy_server_ca is one"),
        ({"haproxy_port": 0}, "from 1 to 65535"),
        ({"haproxy_stats_port": 65536}, "from 1 to 65535"),
        ({"app_name": "a b"}, "letters, digits"),
        ({"app_health_path": "health"}, "begins with '/'"),
        ({"app_health_path": "/a b"}, "no space"),
        ({"app_health_host": ""}, "a host name"),
        ({"haproxy_health_interval": 0}, "1 (second) or more"),
        ({"haproxy_open_files": 100}, "1024 or more"),
        ({"haproxy_connect_timeout": 0}, "1 (second) or more"),
        ({"haproxy_client_connections": -1}, "0 (no limit) or more"),
        ({"haproxy_server_timeout": 1}, "more than haproxy_connect_timeout (1 s)"),
        ({"haproxy_tunnel_timeout": 209}, "haproxy_server_timeout (210 s) or more"),
        ({"haproxy_keepalive_timeout": 210}, "less than haproxy_server_timeout (210 s)"),
        ({"app_server_names": []}, "names without port"),
        ({"app_server_names": ["_", "a"]}, "names without port"),
        ({"app_server_names": ["www.example.org:80"]}, "names without port"),
        ({"app_server_names": ["www.example.*"]}, "not given nginx's other patterns"),
        ({"app_server_names": ["a", "~^w.*$"]}, "not given nginx's other patterns"),
        ({"haproxy_trusted_proxies": ["proxy.example.org"]}, "addresses or networks"),
        ({"haproxy_proxy_protocol": True}, "unless haproxy_trusted_proxies"),
        ({"haproxy_sticky": True}, "16 characters or more"),
        ({"haproxy_sticky": True, "haproxy_sticky_key": "CHANGE-ME"}, "16 characters or more"),
        ({"app_static_paths": ["static"]}, "begin with /"),
        (STICKY | NAMED | {"haproxy_trusted_proxies": ["10.0.0.7", "::1/128"], "haproxy_proxy_protocol": True}, None),
        ({"haproxy_applications": [BOARD, BOARD]}, "a name of their own"),
        ({"haproxy_applications": [BOARD | {"server_names": ["_"]}, CHAT]}, "where there is one application"),
        ({"haproxy_applications": [BOARD, CHAT]}, None),
        ({}, None),
    ],
    ids=str,
)
def test_preflight(given: dict[str, Any], said: str | None) -> None:
    task, *_ = load_yaml(ROLES / "haproxy" / "tasks" / "preflight.yml")
    values = with_application(given)
    rules = task["eyewall.tornado.check_values"]["rules"]
    kept = evaluate_all([item["that"].strip("{} \n") for item in rules], **values)
    found = [
        re.sub(r"{{ (\w+) }}", lambda name: str(evaluate(name[1], **values)), item["expected"])
        for item, is_kept in zip(rules, kept, strict=True)
        if not is_kept
    ]
    if said is None:
        assert found == []
    else:
        assert any(said in expected for expected in found), found


@needs_haproxy
@pytest.mark.parametrize(
    ("letters", "fits"), [("x" * 7000, True), ("%" * 3500, True), ("%" * 4100, False), ("é" * 4100, False)]
)
def test_a_page_that_fits_into_its_buffer(letters: str, fits: bool, tmp_path: Path) -> None:
    """Where it does not, HAProxy refuses the whole configuration: the control is a page of twice that size."""
    page = tmp_path / "own.html"
    page.write_text(letters)
    given = with_application({"haproxy_headers_size": "8k", "haproxy_error_page": str(page)})
    task, *_ = load_yaml(ROLES / "haproxy" / "tasks" / "preflight.yml")
    rules = [
        item["that"].strip("{} \n")
        for item in task["eyewall.tornado.check_values"]["rules"]
        if item["name"] == "haproxy_error_page"
    ]
    assert all(evaluate(rule, **given) for rule in rules) == fits
    assert not all(evaluate(rule, **given | {"haproxy_error_page": os.path.relpath(page)}) for rule in rules)
    for text, taken in ((letters, True), ("x" * 30000, False)):
        page.write_text(text)
        file = tmp_path / "haproxy.cfg"
        file.write_text(with_error_pages(conf(**given), tmp_path, haproxy_error_page=str(page)))
        assert HAPROXY
        done = subprocess.run([HAPROXY, "-c", "-f", file], capture_output=True, text=True, check=False, timeout=20)
        assert (done.returncode == 0) == taken, done.stderr


# ---- What it does ----


KEPT = "public, max-age=31536000, immutable"


class Host(http.server.ThreadingHTTPServer):
    """A host of the application: answers with its name, remembers requests, closes what is idle after a while."""

    daemon_threads = True
    request_queue_size = 256
    idle = 0.015  # seconds

    def __init__(self, name: str, port: int) -> None:
        super().__init__(("127.0.0.1", port), Answer)
        self.name = name
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.thread = threading.Thread(target=self.serve_forever, args=(0.02,))
        self.thread.start()

    def die(self) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: HAProxy may leave whenever it likes."""


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = 5
    server: Host

    def handle(self) -> None:
        self.close_connection = True
        self.handle_one_request()
        self.connection.settimeout(self.server.idle)
        while not self.close_connection:
            self.handle_one_request()

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.seen.append(
            (self.command, self.path, {name.lower(): value for name, value in self.headers.items()})
        )
        if self.path == "/drop":
            self.close_connection = True
        elif self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Upgrade", "websocket")
            self.send_header("Connection", "Upgrade")
            # RFC 6455, 4.2.2: HAProxy answers 502 for one that does not fit the key
            key = self.headers["Sec-WebSocket-Key"] + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
            self.send_header(
                "Sec-WebSocket-Accept",
                base64.b64encode(hashlib.sha1(key.encode(), usedforsecurity=False).digest()).decode(),
            )
            self.end_headers()
            self.wfile.flush()
            self.connection.settimeout(5)
            self.connection.sendall(self.connection.recv(100).upper())
            self.close_connection = True
        else:
            body = self.server.name.encode() + body
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            if "/static/" in self.path:
                self.send_header("Cache-Control", KEPT)
            self.end_headers()
            self.wfile.write(body)

    do_POST = do_PUT = do_PATCH = do_GET  # noqa: N815 -- http.server's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- http.server's name
        """Nothing."""


class Site:
    """The role's configuration in a HAProxy of this user, on free ports, before two hosts."""

    def __init__(self, folder: Path, ports: list[int], **given: Any) -> None:
        self.folder, self.port = folder, ports[0]
        self.hosts = [Host("app1", ports[1]), Host("app2", ports[2])]
        servers = [{"name": host.name, "address": f"127.0.0.1:{host.server_port}"} for host in self.hosts]
        text = conf(
            app_servers=servers, haproxy_port=ports[0], haproxy_stats_port=ports[3], haproxy_ipv6=False, **given
        )
        # what only root may, and what belongs to the machine
        text = re.sub(r"(?m)^ +(user|group|chroot|log stdout) .*\n", "", text)
        text = text.replace("/run/haproxy/admin.sock user root group root", str(folder / "s"))
        (folder / "cfg").write_text(with_error_pages(text, folder))
        self.start()

    def start(self) -> None:
        assert HAPROXY
        with (self.folder / "said").open("a") as said:
            self.process = subprocess.Popen([HAPROXY, "-W", "-f", self.folder / "cfg"], stderr=said)
        self.wait(lambda: "app1" in self.ask("show stat"))

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    def reload(self) -> None:
        before = self.ask("show info")
        self.process.send_signal(signal.SIGUSR2)
        pid = re.findall(r"(?m)^Pid: .*$", before)[0]
        self.wait(lambda: f"{pid}\n" not in self.ask("show info"))

    def ask(self, command: str) -> str:
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.settimeout(5)
            try:
                runtime.connect(str(self.folder / "s"))
            except (FileNotFoundError, ConnectionRefusedError):
                return ""
            runtime.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: runtime.recv(65536), b"")).decode()

    def statistic(self, backend: str, server: str, name: str) -> str:
        """Return one of a server's statistics; its status is UP, DOWN, DRAIN and so on."""
        rows = csv.DictReader(self.ask("show stat").removeprefix("# ").splitlines())
        (found,) = [row[name] for row in rows if (row["pxname"], row["svname"]) == (backend, server)]
        return found

    def wait(self, true: Callable[[], bool], seconds: float = 5) -> float:
        start = time.monotonic()
        while not true():
            assert time.monotonic() < start + seconds, (self.folder / "said").read_text()
            time.sleep(0.02)
        return time.monotonic() - start

    def request(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as client:
            client.request(method, path, headers=named)
            response = client.getresponse()
            return response.status, response.read(), response.headers

    def raw(self, *lines: str, source: str = "127.0.0.1") -> str:
        """Send these lines as the head of a request, from an address of this machine; return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10, source_address=(source, 0)) as client:
            client.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            with contextlib.suppress(ConnectionResetError):
                return b"".join(iter(lambda: client.recv(65536), b"")).decode("latin-1")
        return ""

    def heard(self, *headers: str, source: str) -> tuple[str, str]:
        """Send a request; return which client and scheme a host is told of."""
        path = f"/heard/{time.monotonic_ns()}"
        self.raw(f"GET {path} HTTP/1.1", "Host: x", *headers, source=source)
        ((_, _, seen),) = self.seen(path)
        return seen["x-forwarded-for"], seen["x-forwarded-proto"]

    def seen(self, path: str) -> list[tuple[str, str, dict[str, str]]]:
        return [request for host in self.hosts for request in host.seen if request[1] == path]


# ---- TLS ----


def test_without_certificates_there_is_no_tls() -> None:
    text = conf(haproxy_hsts=300, haproxy_acme_thumbprint="")
    assert not re.search(r"\bssl crt|ssl-default|Strict-Transport|redirect|acme-challenge|h2-workaround", text)


def test_with_certificates_a_port_has_tls_and_the_other_one_sends_there() -> None:
    lines = section(conf(**TLS, haproxy_hsts=300), "frontend", "site")
    tls = "ssl crt /etc/haproxy/certificates/board.pem crt /etc/haproxy/certificates/chat.pem alpn h2,http/1.1"
    assert [line for line in lines if line.startswith("bind")] == [
        "bind *:80", "bind [::]:80 v6only", f"bind *:443 {tls}", f"bind [::]:443 v6only {tls}",
    ]  # fmt: skip
    assert "http-request redirect scheme https code 308 unless { ssl_fc }" in lines
    assert "http-after-response set-header Strict-Transport-Security max-age=300 if { ssl_fc }" in lines
    stays = section(conf(**TLS, haproxy_https_redirect=False), "frontend", "site")
    assert not [line for line in stays if "redirect" in line or "Strict-Transport" in line]


def test_challenges_are_answered_before_anything_is_refused_or_redirected() -> None:
    lines = section(conf(**TLS, **NAMED, haproxy_acme_thumbprint="THUMB"), "frontend", "site")
    answer, refusal, redirect = (
        next(number for number, line in enumerate(lines) if word in line)
        for word in (".THUMB", "deny_status 421", "redirect")
    )
    assert answer < refusal < redirect


def test_protocols_ciphers_and_curves_are_those_of_the_guideline() -> None:
    lines = section(conf(**TLS), "global")
    assert "ssl-default-bind-options ssl-min-ver TLSv1.2 no-tls-tickets" in lines
    (ciphers,) = (line.split()[1].split(":") for line in lines if line.startswith("ssl-default-bind-ciphers "))
    assert len(ciphers) == 6 and all(
        re.match("ECDHE-(ECDSA|RSA)-(AES128-GCM|AES256-GCM|CHACHA20)", one) for one in ciphers
    )
    assert "h2-workaround-bogus-websocket-clients" in lines


def test_hosts_are_asked_over_tls_by_their_names() -> None:
    text = conf(haproxy_server_ca="/etc/eyewall/site-ca.pem", haproxy_server_certificate="/etc/eyewall/inner.pem")
    servers = [line for line in text.splitlines() if line.strip().startswith("server app1 ")]
    wanted = (
        "ssl verify required verifyhost app1 sni str(app1) ca-file /etc/eyewall/site-ca.pem crt /etc/eyewall/inner.pem"
    )
    assert len(servers) == 2 and all(wanted in line for line in servers)


@pytest.fixture(scope="module")
def tls_door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSDoor]:
    door = TLSDoor(tmp_path_factory.mktemp("tls"), 9, haproxy_acme_thumbprint="THUMB", haproxy_hsts=300)
    yield door
    door.stop()


def plain(door: TLSDoor, path: str, *headers: str) -> str:
    with socket.create_connection(("127.0.0.1", door.plain), timeout=10) as client:
        client.sendall("\r\n".join([f"GET {path} HTTP/1.0", *headers, "", ""]).encode())
        return b"".join(iter(lambda: client.recv(65536), b"")).decode("latin-1")


@needs_haproxy
def test_plain_text_is_answered_with_the_address_over_tls(tls_door: TLSDoor) -> None:
    assert f"\r\nlocation: https://localhost:{tls_door.port}/a?b=c\r\n" in plain(
        tls_door, "/a?b=c", "Host: localhost:80"
    )
    assert plain(tls_door, "/a").startswith("HTTP/1.1 400"), "without a name there is no such address"
    answer = plain(tls_door, "/.well-known/acme-challenge/tok_en-1", "Host: localhost")
    assert answer.startswith("HTTP/1.1 200") and answer.endswith("\r\ntok_en-1.THUMB")
    for path in ("/.well-known/acme-challenge/", "/.well-known/acme-challenge/a/b", "/.well-known/acme-challenge/%0a"):
        assert plain(tls_door, path, "Host: localhost").startswith("HTTP/1.1 308")


@needs_haproxy
@pytest.mark.parametrize(
    ("version", "taken"),
    [(ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)],
)
def test_old_versions_of_tls_are_refused(tls_door: TLSDoor, version: ssl.TLSVersion, taken: bool) -> None:
    context = ssl.create_default_context(cafile=str(tls_door.ca))
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with socket.create_connection(("127.0.0.1", tls_door.port), timeout=10) as client:
        if not taken:
            with pytest.raises(ssl.SSLError):
                context.wrap_socket(client, server_hostname="localhost")
            return
        with context.wrap_socket(client, server_hostname="localhost") as tls:
            assert tls.version() == version.name.replace("_", ".")


@contextlib.contextmanager
def clients(site: Site) -> Iterator[Counter[str]]:
    """Clients while the block runs, GET and POST, kept-alive and new connections: what came of their requests."""
    counted: Counter[str] = Counter()
    ended = threading.Event()

    def client(method: str, kept: bool) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
        number = 0
        while not ended.is_set():
            number += 1
            try:
                connection.request(method, f"/{method}/{kept}/{number}", body=b"x" if method == "POST" else None)
                response = connection.getresponse()
                response.read()
                counted["ok" if response.status == 200 else f"{method} {response.status}"] += 1
            except (OSError, http.client.HTTPException) as error:
                counted[f"{method} {'kept' if kept else 'new'} {error!r}"] += 1
                connection.close()
            if not kept:
                connection.close()
            # from at once to longer than a host keeps a connection
            time.sleep(0.006 * (number % 4))
        connection.close()

    threads = [threading.Thread(target=client, args=(m, kept)) for m in ("GET", "POST") for kept in (True, False)]
    for thread in threads:
        thread.start()
    try:
        yield counted
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@contextlib.contextmanager
def running(folder: Path, ports: list[int], **given: Any) -> Iterator[Site]:
    site = Site(folder, ports, **given)
    with contextlib.ExitStack() as at_end:
        for host in site.hosts:
            at_end.callback(host.die)
        at_end.callback(site.stop)
        yield site


@pytest.fixture
def start_site(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[Callable[..., Site]]:
    with contextlib.ExitStack() as at_end:
        yield lambda **given: at_end.enter_context(running(tmp_path, free_ports(4), **given))


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory, free_ports: Callable[[int], list[int]]) -> Iterator[Any]:
    """Sites for tests that leave them as they are."""
    with contextlib.ExitStack() as at_end:

        def start(**given: Any) -> Site:
            return at_end.enter_context(running(tmp_path_factory.mktemp("s"), free_ports(4), **given))

        yield functools.cache(lambda name: start(**{"named": NAMED, "trusting": TRUSTED}[name]))


@pytest.fixture
def named_site(lasting: Callable[[str], Site]) -> Site:
    return lasting("named")


@pytest.fixture
def trusting_site(lasting: Callable[[str], Site]) -> Site:
    return lasting("trusting")


@needs_haproxy
def test_no_request_is_lost_to_reloads_nor_to_hosts_that_close_idle_connections(
    start_site: Callable[..., Site],
) -> None:
    site = start_site()
    with clients(site) as counted:
        for _ in range(3):
            time.sleep(0.5)
            site.reload()
        time.sleep(0.5)
    assert set(counted) == {"ok"}
    assert counted["ok"] > 100
    posts = Counter(path for host in site.hosts for method, path, _ in host.seen if method == "POST")
    assert posts
    # each client's numbers are its own, so each path was asked for once
    assert set(posts.values()) == {1}


@needs_haproxy
def test_the_clients_see_what_a_restart_loses(start_site: Callable[..., Site]) -> None:
    site = start_site()
    with clients(site) as counted:
        time.sleep(0.3)
        site.stop()
        site.start()
        time.sleep(0.3)
    assert set(counted) > {"ok"}


@needs_haproxy
def test_a_host_that_dies_is_out_within_3_seconds_and_takes_no_more_than_a_post_that_it_had(
    start_site: Callable[..., Site],
) -> None:
    site = start_site()
    first, second = site.hosts
    # One fault at a time: HAProxy 2.6 may give up a GET that a host refused and that then met another one's idle
    # connection as that was closed (seen 3 times in 80). Hosts keep theirs for longer than HAProxy does.
    second.idle = 5
    with clients(site) as counted:
        time.sleep(0.3)
        first.die()
        site.wait(lambda: {site.statistic(name, "app1", "status") for name in ("app", "app-once")} <= DOWN, seconds=3)
        chosen = site.statistic("app", "app1", "lbtot")
        time.sleep(0.3)
        assert site.statistic("app", "app1", "lbtot") == chosen
    assert not [what for what in counted if what.startswith("GET")]
    # two clients, and each had one at a time on the way
    assert counted.total() - counted["ok"] <= 2
    assert second.seen
    # it is back as soon as it answers
    site.hosts[0] = Host("app1", first.server_port)
    try:
        site.wait(lambda: site.statistic("app", "app1", "status") == "UP")
    finally:
        site.hosts[0].die()


@needs_haproxy
@pytest.mark.parametrize(("method", "times"), [("POST", 1), ("PATCH", 1), ("GET", 4), ("PUT", 4)])
def test_only_an_idempotent_request_is_sent_again(start_site: Callable[..., Site], method: str, times: int) -> None:
    site = start_site()
    assert site.request("/drop", method)[0] == 502
    assert len(site.seen("/drop")) == times


@needs_haproxy
def test_one_client_has_so_many_connections_be_they_idle(start_site: Callable[..., Site]) -> None:
    site = start_site(haproxy_client_connections=3, haproxy_trusted_proxies=["127.0.0.2"])
    with contextlib.ExitStack() as at_end:

        def connect(source: str = "127.0.0.1") -> socket.socket:
            connection = socket.create_connection(("127.0.0.1", site.port), timeout=5, source_address=(source, 0))
            return at_end.enter_context(connection)

        opened = [connect() for _ in range(6)]
        # which of them come first is between HAProxy's threads
        site.wait(lambda: len(select.select(opened, [], [], 0)[0]) == 3)
        closed = select.select(opened, [], [], 0)[0]
        kept = [connection for connection in opened if connection not in closed]
        for connection in kept:
            connection.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
        # one that has gone makes room
        kept[0].close()
        site.wait(lambda: "conn_cur=2" in site.ask("show table site"))
        assert site.request("/x")[0] == 200
        # a trusted proxy has many clients
        for connection in [connect("127.0.0.2") for _ in range(6)]:
            connection.sendall(b"GET /x HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"


@needs_haproxy
def test_a_host_that_is_drained_gets_neither_get_nor_post(start_site: Callable[..., Site]) -> None:
    site = start_site()
    site.ask("set server app/app1 state drain")
    answers = {site.request("/x", method)[1] for method in ("GET", "POST") for _ in range(4)}
    assert answers == {b"app2"}


@needs_haproxy
def test_hosts_learn_who_asks_from_haproxy_alone(start_site: Callable[..., Site]) -> None:
    site = start_site()
    for method in ("GET", "POST"):
        site.request("/who", method, X_Forwarded_For="6.6.6.6", X_Forwarded_Proto="https", Host="www.example.org")
    for _, _, headers in site.seen("/who"):
        assert headers["x-forwarded-for"] == "127.0.0.1"
        assert headers["x-forwarded-proto"] == "http"
        assert headers["host"] == "www.example.org"
    assert len(site.seen("/who")) == 2


@needs_haproxy
def test_health_is_asked_for_as_it_is_set(start_site: Callable[..., Site]) -> None:
    site = start_site(app_health_path="/health", app_health_host="www.example.org")
    site.wait(lambda: len(site.seen("/health")) >= 2)
    assert {(method, headers["host"]) for method, _, headers in site.seen("/health")} == {("GET", "www.example.org")}


@needs_haproxy
def test_websockets_pass(start_site: Callable[..., Site]) -> None:
    site = start_site()
    with socket.create_connection(("127.0.0.1", site.port), timeout=5) as client:
        client.sendall(
            b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: "
        )
        client.sendall(b"dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.1 101"
        client.sendall(b"hello")
        assert b"".join(iter(lambda: client.recv(1000), b"")).endswith(b"HELLO")


@needs_haproxy
def test_a_cookie_keeps_a_browser_on_a_host_while_it_lives(start_site: Callable[..., Site]) -> None:
    site = start_site(**STICKY)
    _, name, headers = site.request("/first")
    cookie = str(headers["Set-Cookie"]).split(";")[0]
    assert "Secure" not in headers["Set-Cookie"]
    assert {site.request("/x", method, Cookie=cookie)[1] for method in ("GET", "POST") for _ in range(4)} == {name}
    (alive,) = [host for host in site.hosts if host.name.encode() != name]
    next(host for host in site.hosts if host is not alive).die()
    assert site.request("/y", "POST", Cookie=cookie)[:2] == (200, alive.name.encode())


@needs_haproxy
def test_a_static_file_has_no_cookie_and_is_kept_by_caches(start_site: Callable[..., Site]) -> None:
    site = start_site(**STICKY)
    for method in ("GET", "POST"):
        headers = site.request("/static/y?v=1", method)[2]
        assert (headers["Set-Cookie"], headers.get_all("Cache-Control")) == (None, [KEPT])
    # the control: what a cookie brings
    headers = site.request("/x/static/y")[2]
    assert headers["Set-Cookie"]
    assert headers.get_all("Cache-Control") == [KEPT, "private"]


@needs_haproxy
@pytest.mark.parametrize(
    ("line", "host", "status"),
    [
        ("GET / HTTP/1.1", "www.example.org", 200),
        ("GET / HTTP/1.1", "WWW.Example.ORG.:8080", 200),
        ("GET / HTTP/1.1", "a.b.example.net", 200),
        ("GET / HTTP/1.1", "example.com", 200),
        ("GET / HTTP/1.1", "a.example.com:80", 200),
        ("GET / HTTP/1.1", "10.0.0.1:80", 200),
        ("GET / HTTP/1.1", "[2001:db8::1]:80", 200),
        ("GET / HTTP/1.0", "www.example.org", 200),
        ("GET http://www.example.org/ HTTP/1.1", "www.example.org", 200),
        ("GET / HTTP/1.1", "evil.example", 421),
        ("GET / HTTP/1.1", "example.net", 421),
        ("GET / HTTP/1.1", "example.org", 421),
        ("GET / HTTP/1.1", "www.example.org.evil.example", 421),
        # 421 from HAProxy 2.6, 400 from 3.0
        ("GET / HTTP/1.1", "evil.example, www.example.org", 4),
        ("POST / HTTP/1.1", "evil.example", 421),
        ("GET http://evil.example/ HTTP/1.1", "www.example.org", 400),
        ("GET http://www.example.org/ HTTP/1.1", "evil.example", 400),
        ("GET http://evil.example/ HTTP/1.1", "evil.example", 421),
        # what some take for the name of the user, or the port
        ("GET / HTTP/1.1", "www.example.org:80@evil.example", 4),
        ("GET / HTTP/1.1", "evil.example:80@www.example.org", 4),
        ("GET / HTTP/1.1", "www.example.org:80x", 421),
        ("GET / HTTP/1.1", "wwwxexample.org", 421),
        ("GET / HTTP/1.1", ".example.net", 421),
        # a host's nginx says what is wrong
        ("GET / HTTP/1.1", None, 200),
        # who asks on the host itself, as monitoring does
        ("GET / HTTP/1.1", "127.0.0.1:80", 200),
        ("GET / HTTP/1.1", "localhost", 200),
        ("GET / HTTP/1.1", "127.0.0.2", 421),
    ],
)
def test_another_name_than_the_sites_is_misdirected(named_site: Site, line: str, host: str | None, status: int) -> None:
    assert named_site.raw(line, *([f"Host: {host}"] if host is not None else [])).startswith(f"HTTP/1.1 {status}")


@needs_haproxy
def test_names_of_loopback_are_for_who_is_there(start_site: Callable[..., Site]) -> None:
    site = start_site(**NAMED, haproxy_trusted_proxies=["127.0.0.2"])
    asked = ["GET / HTTP/1.1", "Host: localhost", "X-Forwarded-For: 203.0.113.9"]
    assert site.raw(*asked).startswith("HTTP/1.1 200 ")
    assert site.raw(*asked, source="127.0.0.2").startswith("HTTP/1.1 421 ")


@needs_haproxy
def test_http_2_is_not_spoken_without_tls(start_site: Callable[..., Site]) -> None:
    site = start_site()
    settings = "\0\0\0\4\0\0\0\0\0"
    assert site.raw("PRI * HTTP/2.0", "", "SM", "", settings).startswith("HTTP/1.1 400 ")


@needs_haproxy
def test_the_admin_socket_is_its_owners(start_site: Callable[..., Site]) -> None:
    assert (start_site().folder / "s").stat().st_mode & 0o777 == 0o600


TRUSTED = {"haproxy_trusted_proxies": ["127.0.0.2", "127.0.0.3", "2001:db8::/32"]}


@needs_haproxy
@pytest.mark.parametrize(
    ("forwarded", "client"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db9::9", "2001:db9::9"),
        # the client's own words stand to the left of what a proxy heard
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.3, 203.0.113.9", "203.0.113.9"),
        # one proxy behind another
        ("198.51.100.1, 203.0.113.9, 2001:db8::7, 127.0.0.3", "203.0.113.9"),
        ("127.0.0.3", "127.0.0.3"),
        # no address: the last one that is one
        ("203.0.113.9, unknown", "127.0.0.2"),
        ("203.0.113.9, unknown, 127.0.0.3", "127.0.0.3"),
        (None, "127.0.0.2"),
    ],
)
def test_the_client_is_whom_trusted_proxies_heard(trusting_site: Site, forwarded: str | None, client: str) -> None:
    said = [f"X-Forwarded-For: {forwarded}"] if forwarded else []
    assert trusting_site.heard(*said, "X-Forwarded-Proto: https", source="127.0.0.2") == (client, "https")
    # nobody else is believed
    assert trusting_site.heard(*said, "X-Forwarded-Proto: https", source="127.0.0.9") == ("127.0.0.9", "http")


@needs_haproxy
def test_what_one_client_says_is_not_said_of_the_next_on_that_connection(trusting_site: Site) -> None:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", trusting_site.port, timeout=10)) as proxy:
        proxy.source_address = ("127.0.0.2", 0)
        for number, headers in enumerate(({"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "https"}, {})):
            proxy.request("GET", f"/kept/{number}", headers=headers)
            proxy.getresponse().read()
    ((_, _, first),) = trusting_site.seen("/kept/0")
    ((_, _, second),) = trusting_site.seen("/kept/1")
    assert (first["x-forwarded-for"], first["x-forwarded-proto"]) == ("203.0.113.9", "https")
    assert (second["x-forwarded-for"], second["x-forwarded-proto"]) == ("127.0.0.2", "http")


@needs_haproxy
@pytest.mark.parametrize("scheme", ["ftp", "", "https, http"])
def test_a_scheme_is_http_or_https(trusting_site: Site, scheme: str) -> None:
    assert trusting_site.heard(f"X-Forwarded-Proto: {scheme}", source="127.0.0.2")[1] == "http"


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return not probe.connect_ex(("127.0.0.1", port))


# Another HAProxy, which ends TLS and comes from 127.0.0.2: as a layer 7 proxy, and as one of layer 4.
ENDS_TLS = """
defaults
    mode {mode}
    timeout connect 5s
    timeout client 10s
    timeout server 10s
frontend tls
    bind 127.0.0.1:{port} ssl crt {folder}/pem
    {rule}
    default_backend site
backend site
    server site 127.0.0.1:{to} source 127.0.0.2 {protocol}
"""
AS_HEADERS = {
    "mode": "http",
    "rule": "http-request set-header X-Forwarded-Proto https\n option forwardfor",
    "protocol": "",
}
AS_PROXY_PROTOCOL = {"mode": "tcp", "rule": "tcp-request connection set-dst-port int(443)", "protocol": "send-proxy-v2"}


@needs_haproxy
@pytest.mark.parametrize("how", [AS_HEADERS, AS_PROXY_PROTOCOL], ids=["headers", "PROXY protocol"])
def test_what_ends_tls_in_front_is_believed(
    start_site: Callable[..., Site], free_ports: Callable[[int], list[int]], tmp_path: Path, how: dict[str, str]
) -> None:
    by_protocol = how is AS_PROXY_PROTOCOL
    site = start_site(**STICKY, haproxy_trusted_proxies=["127.0.0.2"], haproxy_proxy_protocol=by_protocol)
    (port,) = free_ports(1)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=localhost", "-keyout", tmp_path / "pem.key", "-out", tmp_path / "pem"],
        check=True, capture_output=True,
    )  # fmt: skip
    (tmp_path / "tls").write_text(ENDS_TLS.format(port=port, folder=tmp_path, to=site.port, **how))
    assert HAPROXY
    process = subprocess.Popen([HAPROXY, "-f", tmp_path / "tls"])
    try:
        site.wait(lambda: listens(port))
        insecure = ssl._create_unverified_context()  # noqa: S323 -- a certificate of this test
        client = http.client.HTTPSConnection(
            "127.0.0.1", port, timeout=10, context=insecure, source_address=("127.0.0.44", 0)
        )
        with contextlib.closing(client):
            # a client's own words are not believed, though they come through it
            client.request("GET", "/tls", headers={"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"})
            with client.getresponse() as answer:
                assert answer.status == 200
                assert answer.headers["Set-Cookie"].endswith("; Secure")
    finally:
        process.terminate()
        process.wait(20)
    ((_, _, headers),) = site.seen("/tls")
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == ("127.0.0.44", "https")

    # neither in this way nor in the other from anybody else
    line = "PROXY TCP4 203.0.113.9 127.0.0.1 4711 443\r\nGET / HTTP/1.1"
    assert site.raw(line, "Host: x", source="127.0.0.9").startswith("HTTP/1.1 400 ")
    assert site.heard("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https", source="127.0.0.9") == (
        "127.0.0.9",
        "http",
    )
    assert ("HTTP/1.1 200 " in site.raw(line, "Host: x", source="127.0.0.2")) == by_protocol
    assert ("HTTP/1.1 200 " in site.raw("GET / HTTP/1.1", "Host: x", source="127.0.0.2")) != by_protocol


@needs_haproxy
def test_statistics_are_a_page_and_prometheus(start_site: Callable[..., Site]) -> None:
    site = start_site()
    site.port += 3
    assert b"Statistics Report" in site.request("/")[1]
    assert b'haproxy_server_status{proxy="app",server="app1"' in site.request("/metrics")[1]
    # an operator's browser that is here through a tunnel, on a page of somebody else's
    assert site.request("/", Host="evil.example")[0] == 421
