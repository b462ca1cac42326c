"""What nginx makes of Tornado's guide: each point asked for from outside."""

import contextlib
import gzip
import hashlib
import http.client
import json
import re
import socket
import subprocess
import time

import brotli
import pytest
import websocket


@pytest.fixture
def assets(site):
    """The versioned static URLs that the index page names, as path and hash."""
    found = set(re.findall(r"/static/([^\"?]+)\?v=([0-9a-f]{128})", site.get("/").body.decode()))
    assert found
    return sorted(found)


def effective(site):
    """nginx's configuration as nginx reads it, without comments."""
    return re.sub(r"#.*", "", site.sh("nginx -T 2>/dev/null"))


def test_every_process_is_reached(site):
    reached = {site.get("/whoami").json()["port"] for _ in range(40)}
    assert reached == {process["port"] for process in site.processes()}


def test_the_application_sees_the_client_and_believes_no_client(site, sites):
    gateway = subprocess.run(
        ["podman", "inspect", "--format", "{{range .NetworkSettings.Networks}}{{.Gateway}}{{end}}", site.container],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    assert site.get("/whoami").json()["remote_ip"] == gateway
    claims = {
        "X-Real-IP": "192.0.2.1",
        "X-Forwarded-For": "192.0.2.2",
        "X-Scheme": "https",
        "X-Forwarded-Proto": "https",
    }
    for name, value in claims.items():
        answer = site.get("/whoami", {name: value}).json()
        assert (answer["remote_ip"], answer["scheme"]) == (gateway, "http"), name
    # another client, another address: what is seen is the client's and not a constant
    other = next(name for name in sites if name != site.name)
    code = f"import urllib.request; print(urllib.request.urlopen('http://{site.name}/whoami').read().decode())"
    container = site.container.replace(site.name, other)
    seen = subprocess.run(
        ["podman", "exec", container, "python3", "-c", code], capture_output=True, text=True, check=True
    )
    address = subprocess.run(
        ["podman", "exec", container, "hostname", "--ip-address"], capture_output=True, text=True, check=False
    )
    assert json.loads(seen.stdout)["remote_ip"] not in (gateway, "127.0.0.1"), address


def test_the_process_believes_its_nginx(site):
    """The control of the test above: from loopback the headers are believed, so it is nginx that overwrites them."""
    code = (
        "import sys, urllib.request as r;"
        "print(r.urlopen(r.Request(f'http://127.0.0.1:{sys.argv[1]}/whoami',"
        " headers={'X-Real-IP': '192.0.2.1', 'X-Scheme': 'https'})).read().decode())"
    )
    answer = json.loads(site.sh("python3 -c %s %s", code, site.processes()[0]["port"]))
    assert (answer["remote_ip"], answer["scheme"]) == ("192.0.2.1", "https")


def test_host_and_server_headers(site):
    answer = site.get("/whoami", {"Host": "board.example:8080"})
    assert answer.header("Server") == "nginx", "no version of Tornado's"
    # $http_host: the port as well; the application's policy names the host it was asked for
    assert "ws://board.example:8080" in answer.header("Content-Security-Policy")
    assert site.get("/static/robots.txt").header("Server") == "nginx", "server_tokens off"


def raw(site, *lines):
    """What comes back to these lines as the head of a request."""
    with socket.create_connection(("127.0.0.1", site.port), timeout=10) as client:
        client.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
        return b"".join(iter(lambda: client.recv(65536), b"")).decode("latin-1")


@pytest.mark.parametrize(
    ("line", "host", "status"),
    [
        ("GET /whoami HTTP/1.1", "board.example", 200),
        ("GET /whoami HTTP/1.1", "BOARD.example.:8080", 200),
        ("GET /whoami HTTP/1.0", "board.example", 200),
        ("GET http://board.example/whoami HTTP/1.1", "Board.example:80", 200),
        ("GET /whoami HTTP/1.1", "evil.example", 421),
        ("GET /static/robots.txt HTTP/1.1", "evil.example", 421),
        # error pages are below it: what is refused is not looked at there, so nobody may ask for it
        ("GET /.eyewall/x HTTP/1.1", "board.example", 404),
        ("GET /.eyewall/x HTTP/1.1", "localhost", 404),
        ("GET http://board.example/a/../.eyewall/x HTTP/1.1", "evil.example", 404),
        ("GET /whoami HTTP/1.1", "x.board.example", 421),
        # what some take for the name of a user, or for the port
        ("GET /whoami HTTP/1.1", "board.example:80@evil.example", 400),
        # names of the host itself, asked for from elsewhere
        ("GET /whoami HTTP/1.1", "localhost", 421),
        ("GET /whoami HTTP/1.1", "[::1]:80", 421),
        ("GET http://evil.example/whoami HTTP/1.1", "board.example", 421),
        ("GET http://board.example/whoami HTTP/1.1", "evil.example", 400),
        ("GET http://board.example/whoami HTTP/1.1", "127.0.0.1", 400),
        ("GET /whoami HTTP/1.1", None, 400),
        ("GET /whoami HTTP/1.0", None, 200),  # which needs no Host (RFC 1945)
        ("PRI * HTTP/2.0", "board.example", 400),
    ],
)
def test_another_name_than_the_sites_is_misdirected(site, line, host, status):
    assert raw(site, line, *([f"Host: {host}"] if host else [])).startswith(f"HTTP/1.1 {status} ")


def test_on_the_host_itself_it_may_be_asked_by_loopback(site):
    code = "import sys, urllib.request as r; print(*(r.urlopen(f'http://{h}/whoami').status for h in sys.argv[1:]))"
    assert site.sh("python3 -c %s 127.0.0.1 localhost [::1]", code).split() == ["200"] * 3


BY_NGINX = "<p>If you ask somebody about this"  # its error page


def test_a_denied_path_is_denied_in_every_spelling_and_below(site):
    """Whatever could reach the same handler in some framework is answered by nginx; what could not, by the application."""
    host = "Host: board.example"
    spellings = ["", "/", ";x", "%2f", "%2F", "/x", "%3bx", "%0a", "%20", "?x", "/../private"]
    # which is another path for nginx, and may not be for the application
    spellings += ["/../x", "/%2e%2e/x", "%2f..%2fx", "/.."]
    paths = [f"/private{end}" for end in spellings]
    paths += [
        "//private",
        "/./private",
        "/x/../private",
        "/%70rivate",
        "/PRIVATE",
        "/static/../private",
        "/static/%2e%2e/private/",
    ]
    for path in paths:
        answer = raw(site, f"GET {path} HTTP/1.1", host)
        assert answer.startswith("HTTP/1.1 404 "), path
        assert BY_NGINX in answer, path
    for path in ["/private2", "/private.json", "/privately", "/x/private"]:
        answer = raw(site, f"GET {path} HTTP/1.1", host)
        assert answer.startswith("HTTP/1.1 404 "), path
        assert BY_NGINX not in answer, path


def test_a_versioned_file_is_exactly_its_bytes_for_ever(site, assets):
    for path, version in assets:
        answer = site.get(f"/static/{path}?v={version}")
        assert answer.status == 200
        assert hashlib.sha512(answer.body).hexdigest() == version
        assert answer.headers["cache-control"] == ["public, max-age=31536000, immutable"]
        assert answer.header("Expires") is None


def test_an_unknown_version_is_answered_and_not_for_ever(site, assets):
    """In the recipe as written it is cacheable for ten years."""
    (path, version), *rest = assets
    strangers = ["0" * 128, "NEVER_EXISTED", version[:-1], version.upper(), "../" + version]
    strangers += [other for name, other in rest if name != path][:1]
    for stranger in strangers:
        answer = site.get(f"/static/{path}?v={stranger}")
        assert answer.status == 200, stranger
        assert hashlib.sha512(answer.body).hexdigest() == version, stranger
        assert answer.headers["cache-control"] == ["no-cache"], stranger


def test_without_a_version_a_file_is_asked_for_again(site, assets):
    path, _ = assets[0]
    answer = site.get(f"/static/{path}")
    assert answer.header("Cache-Control") == "no-cache"
    again = site.get(f"/static/{path}", {"If-None-Match": answer.header("ETag")})
    assert (again.status, again.body) == (304, b"")
    missing = site.get(f"/static/never.css?v={'0' * 128}")
    assert (missing.status, missing.headers["cache-control"]) == (404, ["no-store"])
    assert site.get("/static/..%2f..%2fgeneration.json").status in (400, 404)


def test_every_host_gives_a_file_the_same_etag(site, assets, sites):
    path, version = assets[0]
    seen = set()
    for host in sites.values():
        connection = http.client.HTTPConnection("127.0.0.1", int(host["local_containers_publish"][0].split(":")[1]))
        connection.request("GET", f"/static/{path}?v={version}")
        seen.add(connection.getresponse().headers["ETag"])
        connection.close()
    assert len(seen) == 1


@pytest.mark.parametrize(("encoding", "unpack"), [("gzip", gzip.decompress), ("br", brotli.decompress)])
def test_static_text_was_compressed_beforehand(site, assets, encoding, unpack):
    path, version = next((path, version) for path, version in assets if path.endswith(".js"))
    answer = site.get(f"/static/{path}?v={version}", {"Accept-Encoding": encoding})
    assert answer.header("Content-Encoding") == encoding
    assert answer.header("Vary") == "Accept-Encoding"
    assert answer.header("Content-Length") == str(len(answer.body)), "of a file, not made while it is sent"
    assert hashlib.sha512(unpack(answer.body)).hexdigest() == version


def test_answers_are_compressed_from_1000_bytes_on(site):
    page = site.get("/", {"Accept-Encoding": "gzip"})
    assert page.header("Content-Encoding") == "gzip"
    assert b"<!doctype html>" in gzip.decompress(page.body)
    small = site.get("/whoami", {"Accept-Encoding": "gzip"})
    assert len(small.body) < 1000
    assert small.header("Content-Encoding") is None
    # gzip_proxied any: also for a client that is itself a proxy
    assert site.get("/", {"Accept-Encoding": "gzip", "Via": "1.1 proxy"}).header("Content-Encoding") == "gzip"


def test_files_of_the_root(site):
    for path, kind in (
        ("/favicon.ico", "image/vnd.microsoft.icon"),
        ("/robots.txt", "text/plain"),
        ("/apple-touch-icon.png", "image/png"),
    ):
        answer = site.get(path)
        assert answer.status == 200, path
        assert answer.header("Content-Type").startswith(kind), path
    # from disk by nginx, as the guide has it; Tornado has the third, and its ETag is a hash
    assert len(site.get("/favicon.ico").header("ETag")) < 30
    assert len(site.get("/robots.txt").header("ETag")) < 30
    assert len(site.get("/apple-touch-icon.png").header("ETag")) == 130


def test_mime_types(site, assets):
    kinds = {path.rsplit(".", 1)[1]: site.get(f"/static/{path}").header("Content-Type") for path, _ in assets}
    assert kinds["css"].startswith("text/css")
    assert kinds["js"].startswith("application/javascript")
    assert kinds["svg"].startswith("image/svg+xml")


def test_an_upload_of_49_mb_passes(site):
    body = bytes(range(256)) * (49 * 4096)
    answer = site.request("POST", "/upload?name=large.bin", site.signed_in(), body)
    assert answer.status == 201, answer
    assert answer.json()["size"] == len(body) == 49 * 1024 * 1024
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()


def test_an_upload_of_51_mb_gets_413(site):
    """From nginx: a client that asks first (Expect) is refused before it sends 51 MB."""
    headers = site.signed_in() | {"Content-Length": str(51 * 1024 * 1024), "Expect": "100-continue"}
    answer = site.request("POST", "/upload?name=larger.bin", headers)
    assert answer.status == 413
    assert answer.header("Server") == "nginx"


def test_a_body_that_nothing_takes_is_refused_before_it_is_read(site):
    """By its size elsewhere; by the process, which is not even sent it, where the site takes files."""
    for method, path, status in (("POST", "/never", 413), ("POST", "/", 413), ("DELETE", "/upload", 405)):
        with socket.create_connection(("127.0.0.1", site.port), timeout=30) as connection:
            head = f"{method} {path} HTTP/1.1\r\nHost: board.example\r\nContent-Length: 51380224\r\n\r\n"
            # which is still sent when the answer comes
            connection.sendall(head.encode() + b"x" * 2**20)
            assert connection.recv(12) == f"HTTP/1.1 {status}".encode(), (method, path)


def test_who_says_nothing_or_half_a_head_is_gone_after_ten_seconds(site):
    begun = time.monotonic()
    with contextlib.ExitStack() as at_end:
        waiting = [
            at_end.enter_context(socket.create_connection(("127.0.0.1", site.port), timeout=60)) for _ in range(2)
        ]
        waiting[1].sendall(b"GET / HTTP/1.1\r\nHost: x\r\n")
        for connection in waiting:
            while connection.recv(1000):
                pass
    assert 9 < time.monotonic() - begun < 60


def lines_of(site, marker):
    """The lines of both logs of nginx that a request left, whose head ends with a marker; of the access log, as JSON."""
    logged = site.sh("cat /var/log/nginx/access.log /var/log/nginx/error.log").encode("utf-8", "surrogateescape")
    return [line for line in logged.splitlines() if marker.encode() in line]


@pytest.mark.parametrize(
    ("head", "fields", "most"),
    [
        (b"GET /a?MARK\xff\xfe HTTP/1.1\r\nReferer: \xe2\x82\r\nUser-Agent: \xed\xa0\x80", {"agent": "", "referer": ""}, 600),
        ("GET /\u20ac?MARK HTTP/1.1\r\nUser-Agent: gr\u00fc\u00df".encode(), {"agent": "gr\u00fc\u00df"}, 600),
        (b"GET /?MARK" + b'"' * 7000 + b" HTTP/1.1\r\nReferer: " + b"\x01" * 7000 + b"\r\nUser-Agent: " + b'"' * 7000,
         {"referer": "", "agent": '"' * 300}, 4000),
        (b"A" * 7000 + b" /?MARK HTTP/1.1", {"method": "A" * 20}, 600),
        # what nginx refuses is said once
        (b"GET /?MARK HTTP/1.1\r\nHost: \x7f", {"status": 400, "host": ""}, 600),
    ],
    ids=["no UTF-8", "UTF-8", "long", "a long method", "a bad host"],
)  # fmt: skip
def test_a_line_of_the_log_is_json_and_short_whatever_a_client_writes(site, until, head, fields, most):
    marker = f"m{time.time_ns()}"
    with socket.create_connection(("127.0.0.1", site.port), timeout=30) as connection:
        host = b"" if b"Host:" in head else b"\r\nHost: board.example"
        connection.sendall(head.replace(b"MARK", marker.encode()) + host + b"\r\n\r\n")
        connection.recv(1)
    (line,) = until(lambda: lines_of(site, marker))
    assert len(line) < most
    entry = json.loads(line.decode("utf-8"))
    assert entry["cut"] is True
    assert {name: entry[name] for name in fields} == fields


def test_logs_are_rotated_by_size(site, until):
    assert "*:00/5:00" in site.sh("systemctl show logrotate.timer --property TimersCalendar")
    before = site.sh("stat --format %%i /var/log/nginx/access.log")
    site.sh("head --bytes=101M /dev/zero >>/var/log/nginx/access.log")
    site.sh("systemctl start logrotate.service")
    try:
        assert site.sh("stat --format %%i /var/log/nginx/access.log.1") == before
        # nginx writes to the new one
        marker = f"/never?{time.time_ns()}"
        site.get(marker)
        until(lambda: lines_of(site, marker))
    finally:
        site.sh("rm /var/log/nginx/access.log.1")


def test_websocket(site):
    connection = websocket.create_connection(
        f"ws://127.0.0.1:{site.port}/live", origin=f"http://127.0.0.1:{site.port}", timeout=10
    )
    try:
        told = json.loads(connection.recv())
        assert told["host"] == site.name
        assert told["pid"] in {process["pid"] for process in site.processes()}
    finally:
        connection.close()
    with pytest.raises(websocket.WebSocketBadStatusException, match="403"):
        websocket.create_connection(f"ws://127.0.0.1:{site.port}/live", origin="http://evil.example", timeout=10)


def test_a_request_has_one_id_in_both_logs(site, until):
    """A failed login is logged by the application; nginx logs every request."""
    form = site.get("/login")
    token = re.search(r"_xsrf=([^;]+)", form.header("Set-Cookie")).group(1)
    headers = {
        "Cookie": f"_xsrf={token}",
        "X-XSRFToken": token,
        "Content-Type": "application/x-www-form-urlencoded",
    }
    marker = f"/login?next=%2F{time.time_ns()}"
    site.request("POST", marker, headers, b"password=wrong")

    def logged():
        lines = site.sh("awk -v marker=%s 'index($0, marker)' /var/log/nginx/access.log", marker)
        return [json.loads(line) for line in lines.splitlines()]

    entry = until(logged)[-1]
    assert entry["method"] == "POST"
    assert entry["upstream"].startswith("127.0.0.1:80")
    assert site.host.run("grep --recursive --quiet %s /var/log/board", entry["request_id"]).rc == 0


def test_a_client_cannot_choose_its_request_id(site):
    assert site.get("/whoami", {"X-Request-Id": "chosen"}).json()["request_id"] != "chosen"


def test_connections_to_the_processes_are_kept(site):
    """Upstream keep-alive: many requests, few connections; the recipe as written makes one for each."""
    opened = "grep '^Tcp:' /proc/net/snmp | tail -1 | cut -d' ' -f6"  # ActiveOpens
    before = int(site.sh(opened))
    for _ in range(50):
        assert site.get("/whoami").status == 200
    assert int(site.sh(opened)) - before < 25


def test_settings_in_force(site, open_files_limit):
    """What only time or a broken network would show is asked of nginx itself: what it read, not what was written."""
    configuration = effective(site)
    for directive in (
        "keepalive_timeout 65;",
        "proxy_read_timeout 200;",
        "sendfile on;",
        "tcp_nopush on;",
        "tcp_nodelay on;",
        "client_max_body_size 1M;",
        "client_max_body_size 50M;",
        "proxy_request_buffering off;",
        "limit_conn clients 500;",
        "proxy_next_upstream error;",
        "server_tokens off;",
        f"worker_rlimit_nofile {open_files_limit};",
        "buffer=64k",
    ):
        assert directive in configuration, directive
    servers = re.findall(r"server 127\.0\.0\.1:(\d+) max_fails=0;", configuration)
    assert servers == [str(process["port"]) for process in site.processes()]


def test_a_process_that_does_not_accept_is_passed_over_at_once(site, until):
    """A communication error goes to the next process: one that is down costs no request and no waiting."""
    stopped = site.processes()[0]
    site.sh("supervisorctl -c /etc/supervisor/supervisord.conf stop %s:%s", site.generation, stopped["port"])
    try:
        begun = time.monotonic()
        answers = [site.get("/whoami") for _ in range(20)]
        assert [answer.status for answer in answers] == [200] * 20
        assert stopped["port"] not in {answer.json()["port"] for answer in answers}
        assert time.monotonic() - begun < 10
    finally:
        site.sh("supervisorctl -c /etc/supervisor/supervisord.conf start %s:%s", site.generation, stopped["port"])
        until(lambda: site.is_ready(stopped["port"]))
