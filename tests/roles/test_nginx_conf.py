"""nginx.conf: every point of the file in Tornado's guide, and what the guide leaves out."""

import ipaddress
import json
import mimetypes
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import REPOSITORY
from support.nginx_blocks import Block, parse
from support.product import ROLES, evaluate, load_yaml, nginx_conf, render

STATIC = ("location", "^~", "/static/")


def conf(**given: Any) -> Block:
    return parse(nginx_conf(**given))


def site_of(http: Block) -> Block:
    """The application's server. The one before it answers the names that no application has."""
    others, site = http.named("server")
    assert others.get("server_name") == ["_"]
    return site


def preflight_rules(name: str) -> list[str]:
    """What has to be true of a variable before anything is changed, as expressions."""
    files = [ROLES / "nginx" / "tasks" / f"{file}.yml" for file in ("preflight", "application_preflight")]
    items = [item for file in files for item in load_yaml(file)[0]["eyewall.tornado.check_values"]["rules"]]
    return [item["that"].strip("{} \n") for item in items if item["name"] == name]


@pytest.fixture(scope="module")
def whole() -> Block:
    """With everything as the wiring has it."""
    return conf()


@pytest.fixture(scope="module")
def http(whole: Block) -> Block:
    return whole.block("http")


@pytest.fixture(scope="module")
def server(http: Block) -> Block:
    return site_of(http)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("http { server { listen 80; }", "unexpected end of file"),
        ("http { } }", "unexpected"),
        ("events { use epoll }", "not terminated"),
        ("user www-data", "not terminated"),
        ("http { sendfile on tcp_nopush on; }", "invalid number of arguments"),
    ],
)
def test_the_parser_of_these_tests_sees_what_does_not_fit(text: str, what: str) -> None:
    with pytest.raises(AssertionError, match=what):
        parse(text)


@pytest.mark.parametrize("ports", [[8000], [8000, 8001, 8002], list(range(9000, 9064))])
def test_upstream_has_every_process_and_never_gives_one_up(ports: list[int]) -> None:
    upstream = conf(nginx_upstream_ports=ports).block("http").block("upstream", "board")
    assert upstream.all("server") == [[f"127.0.0.1:{port}", "max_fails=0"] for port in ports]


def test_a_connection_goes_where_there_are_fewest(http: Block) -> None:
    assert http.block("upstream", "board").all("least_conn") == [[]]


def test_upstream_ports_are_those_of_the_application(http: Block) -> None:
    servers = http.block("upstream", "board").all("server")
    assert [words[0] for words in servers] == ["127.0.0.1:8000", "127.0.0.1:8001"]


def test_upstream_connections_are_kept_and_closed_by_nginx_before_the_drain_is_over(http: Block) -> None:
    upstream = http.block("upstream", "board")
    assert upstream.get("keepalive") == ["64"]
    assert upstream.get("keepalive_timeout") == ["1s"]
    drain = re.search(r"--drain-timeout (\d+)", render("tornado_app/etc/supervisor/conf.d/program.conf.j2"))
    assert drain
    assert int(drain[1]) > 4


def test_upstream_keep_alive_is_over_http_1_1_without_a_connection_header(http: Block, server: Block) -> None:
    assert server.get("proxy_http_version") == ["1.1"]
    assert ["Connection", "$connection_upgrade"] in server.all("proxy_set_header")
    upgrade = http.block("map", "$upgrade", "$connection_upgrade")
    assert upgrade.get("") == [""]


def test_an_upgrade_is_passed_to_a_websocket_and_to_nothing_else(http: Block, server: Block) -> None:
    assert ["Upgrade", "$upgrade"] in server.all("proxy_set_header")
    # nginx compares without regard to case
    upgrades = http.block("map", "$http_upgrade", "$upgrade")
    assert upgrades.directives == [["default", ""], ["websocket", "websocket"]]
    assert http.block("map", "$upgrade", "$connection_upgrade").get("default") == ["upgrade"]


@pytest.mark.parametrize(
    ("directive", "value"),
    [
        ("default_type", "application/octet-stream"),
        ("keepalive_timeout", "65"),
        ("proxy_read_timeout", "200"),
        ("sendfile", "on"),
        ("tcp_nopush", "on"),
        ("tcp_nodelay", "on"),
        ("server_tokens", "off"),
        ("absolute_redirect", "off"),
        ("gzip", "on"),
        ("gzip_vary", "on"),
        ("gzip_min_length", "1000"),
        ("gzip_proxied", "any"),
    ],
)
def test_http_setting(http: Block, directive: str, value: str) -> None:
    assert http.get(directive) == [value]


def test_sites_of_others_are_read_after_ours(http: Block) -> None:
    assert http.all("include") == [
        ["/etc/nginx/conf.d/*.conf"],
        ["/etc/nginx/sites-enabled/*"],
    ]
    # as Debian's file has it, whose default in nginx 1.22 lacks TLS 1.3
    assert http.get("ssl_protocols") == ["TLSv1.2", "TLSv1.3"]


def test_variables_reach_their_directives() -> None:
    tree = conf(
        nginx_keepalive_timeout=7,
        nginx_proxy_read_timeout=8,
        nginx_upstream_keepalive=9,
        nginx_upstream_keepalive_timeout=3,
        nginx_client_max_body_size="1k",
        nginx_port=8080,
        nginx_server_name=["example.org", "www.example.org"],
    )
    http = tree.block("http")
    others, server = http.named("server")
    assert http.get("keepalive_timeout") == ["7"]
    assert http.get("proxy_read_timeout") == ["8"]
    assert tree.get("worker_shutdown_timeout") == ["8s"]
    assert http.block("upstream", "board").get("keepalive") == ["9"]
    assert http.block("upstream", "board").get("keepalive_timeout") == ["3s"]
    assert server.get("client_max_body_size") == ["1k"]
    assert others.all("listen") == [["8080", "default_server"], ["[::]:8080", "default_server"]]
    assert server.all("listen") == [["8080"], ["[::]:8080"]]
    assert server.get("server_name")[:2] == ["example.org", "www.example.org"]


def test_compressed_types_are_the_guides_and_their_modern_names(http: Block) -> None:
    types = http.get("gzip_types")
    guide = {
        "text/plain", "text/css", "text/xml", "text/javascript",
        "application/x-javascript", "application/xml", "application/atom+xml",
    }  # fmt: skip
    modern = {
        "application/javascript",
        "application/json",
        "application/manifest+json",
        "image/svg+xml",
        "application/wasm",
    }
    assert guide | modern <= set(types)
    assert len(types) == len(set(types))
    # nginx always compresses it and warns when it is listed
    assert "text/html" not in types


def test_only_a_communication_error_goes_to_another_process_and_to_one_other(whole: Block) -> None:
    http = whole.block("http")
    assert http.get("proxy_next_upstream") == ["error"]
    assert http.get("proxy_next_upstream_tries") == ["2"]
    everywhere = [whole, http, site_of(http), *site_of(http).blocks]
    assert sum(block.has("proxy_next_upstream") for block in everywhere) == 1


def test_a_body_may_be_large_where_the_site_takes_files_and_nowhere_else(server: Block) -> None:
    assert server.get("client_max_body_size") == ["1M"]
    assert not server.block("location", "/").has("client_max_body_size")
    sizes = {"= /upload": "50M", "/files/": "2G", "~ ^/x/[0-9]+$": "10k"}
    server = site_of(conf(nginx_body_sizes=sizes).block("http"))
    for path, size in sizes.items():
        place = server.block("location", *path.split())
        assert place.directives == [["client_max_body_size", size], ["proxy_pass", "http://board"]]


@pytest.mark.parametrize(
    ("sizes", "fits"),
    [
        ({"= /upload": "50M", "^~ /files/": 1000, "~* [.]zip$": "2g"}, True),
        ({"/": "50M"}, False),
        ({"upload": "50M"}, False),
        ({"/upload /files": "50M"}, False),
        ({"/a{}": "50M"}, False),
        ({"/upload": "50MB"}, False),
    ],
    ids=str,
)
def test_only_what_nginx_can_read_is_a_size_by_path(sizes: dict[str, Any], fits: bool) -> None:
    rules = preflight_rules("nginx_body_sizes")
    assert all(evaluate(rule, nginx_body_sizes=sizes) for rule in rules) == fits


def test_requests_are_passed_on_with_what_the_application_must_know(server: Block) -> None:
    assert server.block("location", "/").get("proxy_pass") == ["http://board"]
    assert server.get("proxy_redirect") == ["off"]
    # a version of Tornado's is nobody's business
    assert not server.has("proxy_pass_header")
    headers = dict(server.all("proxy_set_header"))
    assert len(headers) == len(server.all("proxy_set_header"))
    assert {name: value for name, value in headers.items() if value != ""} == {
        "Host": "$host_of_board",
        "Connection": "$connection_upgrade",
        "Upgrade": "$upgrade",
        "X-Request-Id": "$request_id",
        "X-Real-IP": "$remote_addr",
        "X-Scheme": "$scheme",
    }
    # never the client's own (that it is so for all of them: molecule)
    assert {"X-Forwarded-For", "X-Forwarded-Proto", "Forwarded", "Remote-User", "Proxy"} <= set(headers)
    passed = site_of(conf(nginx_passed_headers=["Remote-User"]).block("http")).all("proxy_set_header")
    assert sorted([*passed, ["Remote-User", ""]]) == sorted(server.all("proxy_set_header"))


def test_headers_to_the_application_are_set_in_one_place() -> None:
    # what stands further out is dropped as soon as one stands further in
    http = conf(nginx_body_sizes={"= /upload": "50M"}).block("http")
    elsewhere = [http, *site_of(http).blocks]
    assert not any(block.has("proxy_set_header") for block in elsewhere)


def test_access_log_is_buffered_json_with_the_request_id(http: Block) -> None:
    assert http.all("access_log") == [
        ["/var/log/nginx/access.log", "json", "buffer=64k", "flush=1s", "if=$log_whole"],
        ["/var/log/nginx/access.log", "json_cut", "buffer=64k", "flush=1s", "if=$log_cut"],
    ]
    found = {}
    for name, escape, *pieces in http.all("log_format"):
        assert escape == "escape=json"
        line = "".join(pieces)
        # each variable's value stands where its name stands: JSON, whatever the value
        filled = re.sub(r"\$(status|body_bytes_sent|request_time)\b", "1", re.sub(r'"\$\w+"', '"x"', line))
        assert "$" not in filled
        found[name] = set(json.loads(filled))
        assert '"request_id":"$answered_request_id"' in line
    assert {"time", "request_id", "client", "method", "uri", "status", "seconds", "upstream"} <= found["json"]
    assert found["json_cut"] == found["json"] | {"cut"}


def cut(http: Block, field: str, value: bytes) -> bytes:
    """What a field of the log is cut to, by the pattern that nginx has for it."""
    (block,) = (block for block in http.named("map") if block.words[2] == f"$log_{field}")
    ((pattern, name),) = block.directives
    define, rest = re.fullmatch(r"~\(\?\(DEFINE\)\((.*)\)\)\^(\(\?<.*)", pattern).groups()  # type: ignore[union-attr]
    assert name == f"$cut_{field}"
    # Python's re has no DEFINE
    found = re.match(rest.replace("(?<", "(?P<").replace("(?1)", f"(?:{define})").encode(), value)
    assert found
    return found[1]


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (b"/plain?x=1", b"/plain?x=1"),
        ("/gr\u00fc\u00df/\u20ac/\U0001f9ed".encode(), "/gr\u00fc\u00df/\u20ac/\U0001f9ed".encode()),
        (b"/a\xffb", b"/a"),
        (b"/\xc3", b"/"),
        (b"/\xc0\xaf", b"/"),  # an overlong /
        (b"/\xed\xa0\x80", b"/"),  # half of a surrogate pair
        (b"/\xf4\x90\x80\x80", b"/"),  # beyond Unicode
        (b"/x\x01y", b"/x"),
        ("\u20ac".encode() * 5000, "\u20ac".encode() * 1000),
        (b"", b""),
    ],
)
def test_a_long_or_odd_field_is_cut_to_what_every_reader_of_json_takes(http: Block, value: bytes, kept: bytes) -> None:
    assert cut(http, "uri", value) == kept
    kept.decode()


def test_what_is_plain_and_not_too_long_is_logged_as_it_is(http: Block) -> None:
    (whole,) = (block for block in http.named("map") if block.words[2] == "$log_whole")
    # every field that a client writes, or it could be long, or no JSON, after all
    fields = whole.words[1].split()
    assert fields == ["$request_method", "$http_host", "$request_uri", "$http_referer", "$http_user_agent"]
    (pattern,) = (words[0] for words in whole.directives if words[1:] == ["1"])
    assert re.search(pattern[1:].encode(), b"GET x / - Mozilla" + b"x" * 1900)
    for odd in (b"x" * 2001, b"\xff", b"\x01", "\u00fc".encode()):
        assert not re.search(pattern[1:].encode(), odd)
    assert http.block("map", "$log_whole", "$log_cut").directives == [["default", "1"], ["1", "0"]]


# ---- What one client may have ----


def test_a_client_has_so_many_requests_at_a_time(http: Block) -> None:
    assert http.get("limit_conn_zone") == ["$client", "zone=clients:10m"]
    assert http.get("limit_conn") == ["clients", "500"]
    assert http.get("limit_conn_status") == ["429"]
    clients = http.block("map", "$binary_remote_addr", "$client")
    assert clients.get("default") == ["$binary_remote_addr"]
    ((pattern, name),) = (words for words in clients.directives if words[0] != "default")
    assert name == "$network"
    expression = pattern[1:].replace("(?<", "(?P<").encode()
    ours, neighbour, other = (
        ipaddress.ip_address(text).packed for text in ("2001:db8::1", "2001:db8:0:0:ffff::", "2001:db8:0:1::1")
    )
    networks = [re.search(expression, address)["network"] for address in (ours, neighbour, other)]  # type: ignore[index]
    assert networks[0] == networks[1] != networks[2]
    assert not re.search(expression, ipaddress.ip_address("192.0.2.1").packed)
    assert not conf(nginx_client_connections=0).block("http").has("limit_conn")


def test_a_head_has_ten_seconds_and_a_body_is_passed_on_as_it_comes(http: Block, server: Block) -> None:
    assert http.get("client_header_timeout") == ["10s"]
    assert server.get("proxy_request_buffering") == ["off"]
    # but for gunicorn, which has a thread for each request
    assert site_of(conf(tornado_app_server="gunicorn").block("http")).get("proxy_request_buffering") == ["on"]


def test_what_nginx_takes_for_any_path_may_be_held_in_memory() -> None:
    def held(**given: Any) -> str:
        text = render("tornado_app/etc/supervisor/conf.d/program.conf.j2", **given)
        return re.findall(r"--max-buffered-body (\S+)", text)[0]

    assert held() == "1048576"
    assert held(nginx_client_max_body_size="50m", nginx_body_sizes={"/upload": "2G"}) == "52428800"
    assert held(nginx_client_max_body_size="0") == "0"


def test_only_what_a_process_was_asked_costs_a_request_id(http: Block) -> None:
    ids = http.block("map", "$upstream_addr", "$answered_request_id")
    assert ids.directives == [["default", "$request_id"], ["", "$sent_http_x_request_id"]], "an error page has one"


@pytest.mark.parametrize("limit", [50000, 20000, 1024])
def test_connections_fit_the_open_files(limit: int) -> None:
    tree = conf(nginx_open_files=limit)
    assert tree.get("worker_rlimit_nofile") == [str(limit)]
    assert tree.get("worker_processes") == ["auto"]
    assert conf(nginx_workers=7).get("worker_processes") == ["7"]
    connections = int(tree.block("events").get("worker_connections")[0])
    assert limit // 2 <= connections < limit
    assert tree.block("events").get("use") == ["epoll"]


def test_open_files_follow_the_sites_one_limit() -> None:
    assert conf(open_files_limit=30000).get("worker_rlimit_nofile") == ["30000"]


# ---- Static files ----


def test_a_published_version_is_served_from_the_store_for_ever(http: Block, server: Block) -> None:
    static = server.block(*STATIC)
    assert static.get("alias") == ["$static_directory_of_board/"]
    # `expires` would be a Cache-Control line of its own
    assert not static.has("expires")
    assert static.get("gzip_static") == ["on"]
    assert static.get("brotli_static") == ["on"]
    assert ["Cache-Control", "$static_cache_control"] in static.all("add_header")
    assert versioned(http, "$static_directory_of_board") == ["/opt/board/static/$static_version"]
    assert versioned(http, "$static_cache_control") == ["public, max-age=31536000, immutable"]


def test_without_a_version_it_is_the_current_release_and_not_kept(http: Block) -> None:
    assert unversioned(http, "$static_directory_of_board") == ["/opt/board/current/release/static"]
    assert unversioned(http, "$static_cache_control") == ["no-cache"]


def test_a_version_that_nobody_published_is_the_current_release_and_not_kept(server: Block) -> None:
    assert ["403", "404", "=", "@static_current"] in server.block(*STATIC).all("error_page")
    current = server.block("location", "@static_current")
    assert current.get("root") == ["/opt/board/current/release"]
    assert current.get("try_files") == ["$uri", "=404"]
    assert ["Cache-Control", "no-cache", "always"] in current.all("add_header")
    assert not current.has("expires")
    assert current.get("gzip_static") == ["on"]


def test_a_file_with_the_name_of_a_compressed_form_is_itself(http: Block, server: Block) -> None:
    (own,) = server.block(*STATIC).blocks
    kind, pattern = own.words[1:]
    assert kind == "~"
    for path, name in (("app.js.gz", "app.js.gz"), ("a/b.tar.br", "a/b.tar.br"), ("app.js", None), (".gz", None)):
        found = re.search(pattern.replace("(?<", "(?P<"), f"/static/{path}")
        assert (found["archive"] if found else None) == name
    assert own.get("alias") == ["$static_archives_of_board/$archive"]
    assert own.get("gzip_static") == own.get("brotli_static") == ["off"]
    assert versioned(http, "$static_archives_of_board") == ["/opt/board/static/archives/$static_version"]
    assert unversioned(http, "$static_archives_of_board") == ["/opt/board/current/release/archives"]
    assert ["403", "404", "=", "@archive_current"] in own.all("error_page")
    assert not server.block("location", "@archive_current").has("gzip_static")


def versioned(http: Block, name: str) -> list[str]:
    return http.block("map", "$static_version", name).get("default")


def unversioned(http: Block, name: str) -> list[str]:
    return http.block("map", "$static_version", name).get("")


@pytest.mark.parametrize(
    ("version", "is_one"),
    [
        ("0123456789abcdef" * 8, True),
        ("0123456789abcdef" * 8 + "0", False),
        ("0123456789abcdef" * 7, False),
        ("../" * 40 + "etc/pass", False),
        ("0123456789ABCDEF" * 8, False),
        ("", False),
    ],
)
def test_only_a_sha512_names_a_version(http: Block, version: str, is_one: bool) -> None:
    versions = http.block("map", "$arg_v", "$static_version")
    assert versions.get("default") == [""]
    (pattern,) = (words[0] for words in versions.directives if "~" in words[0])
    assert pattern.startswith("~^"), "nginx: ~ is with the case, ~* without"
    found = re.search(pattern[1:].replace("(?<", "(?P<"), version)
    assert bool(found) == is_one
    assert versions.get(pattern) == ["$sha512"]


def test_static_files_stay_open_and_a_deploy_is_seen_within_a_second(whole: Block, server: Block) -> None:
    most, inactive = server.get("open_file_cache")
    assert inactive == "inactive=60s"
    assert server.get("open_file_cache_valid") == ["1s"]
    # a version that is not there yet is found as soon as it is published
    assert "open_file_cache_errors" not in {
        words[0] for block in (server, *server.blocks) for words in block.directives
    }
    left = int(whole.get("worker_rlimit_nofile")[0]) - int(whole.block("events").get("worker_connections")[0])
    assert int(most.removeprefix("max=")) <= left // 2


@pytest.mark.parametrize("name", ["favicon.ico", "robots.txt"])
def test_root_files_come_from_static(server: Block, name: str) -> None:
    assert server.block("location", "=", f"/{name}").get("rewrite") == ["(.*)", f"/static/{name}"]


def locations(server: Block) -> list[list[str]]:
    return [block.words for block in server.named("location")]


def test_without_static_files_tornado_answers_everything() -> None:
    http = conf(tornado_app_static="").block("http")
    assert [words for words in locations(site_of(http)) if "/.eyewall/" not in words[-1]] == [["location", "/"]]
    assert not any("static_directory" in block.words[2] for block in http.named("map"))
    assert not site_of(http).has("open_file_cache")


@pytest.mark.parametrize(
    ("path", "denied"),
    [
        ("/metrics", True),
        ("/metrics/", True),
        ("/metrics/x", True),
        ("/metrics;x", True),
        ("/metrics\n", True),
        ("/METRICS", True),
        ("/a+b(c)", True),
        ("/aab(c)", False),
        ("/metrics2", False),
        ("/metrics.json", False),
        ("/metrics-x", False),
        ("/x/metrics", False),
        ("/static/secret", True),
        ("/", False),
    ],
)
def test_a_denied_path_is_denied_in_every_spelling(path: str, denied: bool) -> None:
    """nginx has decoded it by then; that it does is asked on hosts (molecule)."""
    server = site_of(conf(nginx_denied_paths=["/metrics", "/a+b(c)/", "/static/secret"]).block("http"))
    (rule,) = [block for block in server.named("if") if block.words[1] == "$uri"]
    assert rule.words[2] == "~*"
    assert rule.directives == [["return", "404"]]
    assert bool(re.search(rule.words[3], path, re.IGNORECASE)) == denied


@pytest.mark.parametrize(
    ("asked", "denied"),
    [
        ("/metrics/../a", True),
        ("/%6detrics/.%2E/a", True),
        ("/metrics%2f..%2fa", True),
        ("//metrics/..", True),
        ("/metrics/..?b", True),
        ("/a?to=/../b", False),
        ("/a..b/...", False),
        ("/..a", False),
    ],
)
def test_what_the_application_resolves_otherwise_is_denied(asked: str, denied: bool) -> None:
    server = site_of(conf(nginx_denied_paths=["/metrics"]).block("http"))
    (rule,) = [block for block in server.named("if") if block.words[1] == "$request_uri"]
    assert rule.words[2] == "~*"
    assert rule.get("rewrite")[1] == "/.eyewall/404"
    assert bool(re.search(rule.words[3], asked, re.IGNORECASE)) == denied


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("nginx_client_connections", 0, True),
        ("nginx_client_connections", 65535, True),
        ("nginx_client_connections", 65536, False),
        ("nginx_client_connections", -1, False),
        ("nginx_error_page", "", True),
        ("nginx_error_page", __file__, True),
        # for the role it would be relative to its own directory and to the playbook's, and not to this one
        ("nginx_error_page", os.path.relpath(__file__), False),
        ("nginx_error_page", "/nowhere/error.html", False),
        ("nginx_denied_paths", ["/metrics", "/a.b/", "/"], True),
        ("nginx_denied_paths", ["metrics"], False),
        ("nginx_denied_paths", ["/a b"], False),
        ("nginx_denied_paths", ["/%6detrics"], False),
        ("nginx_denied_paths", ["/metrics;x"], False),
        ("nginx_denied_paths", ['/"'], False),
        ("nginx_server_name", ["_"], True),
        ("nginx_server_name", ["www.example.com", "*.example.com", ".example.org", "www.example.*", "10.0.0.1"], True),
        ("nginx_server_name", ["localhost", r"~^w{3}\.(?<name>.+)$"], True),
        ("nginx_server_name", ["[::1]"], True),
        ("nginx_server_name", [], False),
        ("nginx_server_name", ["_", "www.example.com"], False),
        ("nginx_server_name", ["*.example.com"], False),
        ("nginx_server_name", ["~^.*$"], False),
        ("nginx_server_name", ["www.example.com:80"], False),
        ("nginx_server_name", ["www.example.com."], False),
        ("nginx_server_name", ["http://www.example.com"], False),
        ("nginx_server_name", ["a", "b c"], False),
        ("nginx_server_name", ["a", "b;"], False),
        ("nginx_passed_headers", ["Remote-User"], True),
        ("nginx_passed_headers", ["X-Whatever"], False),
    ],
    ids=str,
)
def test_only_what_can_work_passes_the_preflight(name: str, value: list[str] | str, fits: bool) -> None:
    rules = preflight_rules(name)
    assert rules
    assert all(evaluate(rule, **{name: value}) for rule in rules) == fits


# ---- Names ----


def test_with_names_another_one_is_misdirected() -> None:
    names = ["www.example.org", "*.example.net", r"~^w{2}\.example$", "127.0.0.1"]
    http = conf(nginx_server_name=names, nginx_accept_from=["10.0.0.7"]).block("http")
    others, site = http.named("server")
    assert others.get("server_name") == ["_"]
    assert others.block("location", "/").get("return") == ["421"]
    # who gets no answer gets none here either
    assert [block.words for block in others.named("if")] == [["if", "$from_stranger"]]
    assert site.get("server_name") == [*names, "localhost", "[::1]", ""]
    # of a host's other applications, no other name is one
    beside = conf(nginx_server_name=names, nginx_loopback_names=[]).block("http").named("server")[1]
    assert beside.get("server_name") == names
    assert not [block for block in beside.named("if") if "$is_misdirected_board" in block.words]
    # names of the host itself are none of the site's, unless it says so
    misdirected = http.block("map", "$from_elsewhere $host", "$is_misdirected_board")
    assert misdirected.directives == [["default", "0"], ["1 localhost", "1"], ["1 [::1]", "1"]]
    assert refused_with(site, "$is_misdirected_board") == ["421"]


def refused_with(server: Block, condition: str) -> list[str]:
    """What a request gets for which a condition is true; its error page is no such request, or it would have none."""
    pattern, address, last = server.block("if", condition).get("rewrite")
    assert last == "last"
    assert re.search(pattern, "/a")
    assert not re.search(pattern, "/.eyewall/error.html")
    location = server.block("location", "=", address)
    assert location.has("internal")
    # which the conditions do not look at: a client that asks for one itself would be past them
    assert server.block("location", "^~", "/.eyewall/").has("internal")
    return location.get("return")


@pytest.mark.parametrize(
    ("hosts", "differ"),
    [
        ("example.org example.org", False),
        ("example.org Example.ORG", False),
        ("example.org example.org:8080", False),
        ("example.org example.org.:80", False),
        ("[::1] [::1]:80", False),
        ("_ ", False),  # HTTP/1.0
        ("example.org evil.example", True),
        ("example.org example.org.evil.example", True),
        ("example.org xexample.org", True),
        ("example.org example.org:80x", True),
        ("example.org example.org:80@evil.example", True),
    ],
)
def test_the_request_line_names_the_same_host(http: Block, server: Block, hosts: str, differ: bool) -> None:
    (words,) = [words for words in http.block("map", "$host $http_host", "$hosts_differ").directives if "~" in words[0]]
    assert words[1] == "0"
    pattern = words[0]
    assert pattern.startswith("~*^"), "nginx: ~* is without the case"
    assert (re.search(pattern[2:], hosts, re.IGNORECASE) is None) == differ
    assert refused_with(server, "$hosts_differ") == ["400"]


def test_gixy_finds_nothing_but_what_has_its_reason_beside_the_line(tmp_path: Path) -> None:
    """Everything that the role can write, in three files."""
    site = {
        "nginx_server_name": ["www.example.com", "*.example.com", r"~^w{2}\.example$"],
        "nginx_denied_paths": ["/metrics"],
        "nginx_body_sizes": {"= /upload": "50M"},
    }
    behind = {"nginx_trusted_proxies": ["10.0.0.7"], "nginx_accept_from": ["10.0.0.7"]}
    for number, given in enumerate(({}, site | behind, {"tornado_app_static": ""})):
        # without what this machine has beside it
        text = re.sub(r"include /etc/nginx/(conf\.d|sites-enabled)/.*;", "", nginx_conf(**given))
        file = tmp_path / f"{number}.conf"
        # its parser of expressions is Python's, which has no subroutines: each is written where it is called
        file.write_text(re.sub(r"\(\?\(DEFINE\)(\(.*\))\)\^(.*)\(\?>\(\?1\)\)(.*)\+\)", r"^\2\1\3)", text))
        command = [Path(sys.executable).parent / "gixy", "--format", "json", file]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        found = {issue["plugin"] for issue in json.loads(ran.stdout)} if ran.stdout else ran.stderr
        assert found == set(re.findall(r"# gixy (\w+): ", text))


# ---- Balancers in front ----


def test_without_balancers_nobody_is_believed(http: Block, server: Block) -> None:
    assert not http.has("set_real_ip_from")
    assert http.block("geo", "$realip_remote_addr", "$from_trusted_proxy").directives == [["default", "0"]]
    assert ["X-Scheme", "$scheme"] in server.all("proxy_set_header")


def test_an_application_names_no_variable_that_another_sites_nginx_conf_lacks() -> None:
    """A part is checked with the nginx.conf that is there, which may be of before the site had balancers, or TLS."""
    behind = {"nginx_trusted_proxies": ["10.0.0.7"], "nginx_accept_from": ["10.0.0.7"], "nginx_leave_seconds": 4}
    part = render("nginx/etc/nginx/eyewall-app.conf.j2", **behind)
    bare = render("nginx/etc/nginx/nginx.conf.j2")
    named = {"$client_scheme", "$from_stranger", "$leaving"}
    assert all(name in part for name in named), "the control: it does name them"
    assert all(re.search(rf"(?m)^ +(geo|map) .*{re.escape(name)} {{$", bare) for name in named)


def test_behind_a_proxy_of_its_own_host_nginx_is_on_loopback_alone() -> None:
    site = {"nginx_loopback_only": True, "nginx_port": 7080, "nginx_ipv6": True}
    listens = [server.all("listen") for server in conf(**site).block("http").named("server")]
    assert listens == [[["127.0.0.1:7080", "default_server"]], [["127.0.0.1:7080"]]]


def test_balancers_alone_are_believed() -> None:
    http = conf(nginx_trusted_proxies=["10.0.0.7", "10.1.0.0/16"]).block("http")
    assert http.all("set_real_ip_from") == [["10.0.0.7"], ["10.1.0.0/16"]]
    assert http.get("real_ip_header") == ["X-Forwarded-For"]
    assert http.get("real_ip_recursive") == ["on"]
    # who connects, not who they say they are: $remote_addr is rewritten by then
    trusted = http.block("geo", "$realip_remote_addr", "$from_trusted_proxy")
    assert trusted.directives == [["default", "0"], ["10.0.0.7", "1"], ["10.1.0.0/16", "1"]]
    scheme = http.block("map", "$from_trusted_proxy $http_x_forwarded_proto", "$client_scheme")
    assert scheme.directives == [["default", "$scheme"], ["1 https", "https"], ["1 http", "http"]]
    headers = dict(site_of(http).all("proxy_set_header"))
    assert (headers["X-Scheme"], headers["X-Real-IP"]) == ("$client_scheme", "$remote_addr")
    assert headers["X-Forwarded-Proto"] == headers["X-Forwarded-For"] == ""


def test_behind_balancers_nobody_else_is_answered() -> None:
    """Nobody but them, loopback, and whom the inventory names; by who connects, and before anything else."""
    site = {
        "groups": {"app": ["app1"], "balancers": ["lb1", "lb2"]},
        "hostvars": {"lb1": {"site_sources": ["10.0.0.7", "2001:db8::7"]}, "lb2": {"site_sources": ["10.0.0.8"]}},
    }
    http = conf(**site, site_direct_clients=["192.0.2.0/24"]).block("http")
    strangers = http.block("geo", "$realip_remote_addr", "$from_stranger")
    answered = ["127.0.0.0/8", "::1", "10.0.0.7", "2001:db8::7", "10.0.0.8", "192.0.2.0/24"]
    assert strangers.directives == [["default", "1"], *([place, "0"] for place in answered)]
    first = site_of(http).blocks[0]
    assert first.words == ["if", "$from_stranger"]
    assert first.directives == [["return", "444"]]
    assert http.all("set_real_ip_from") == [["10.0.0.7"], ["2001:db8::7"], ["10.0.0.8"]]


def test_without_balancers_everybody_is_answered(server: Block) -> None:
    direct = site_of(conf(site_direct_clients=["192.0.2.0/24"]).block("http"))
    for block in (server, direct):
        assert [block.words for block in block.named("if")] == [["if", "$hosts_differ"]]


def test_a_host_may_come_from_each_address_that_it_has() -> None:
    facts = {
        "all_ipv4_addresses": ["203.0.113.7", "10.0.0.7"],
        "all_ipv6_addresses": ["fe80::1", "2001:db8::7"],
    }
    assert evaluate("site_sources", ansible_facts=facts, site_address="10.0.0.7") == [
        "10.0.0.7",
        "2001:db8::7",
        "203.0.113.7",
    ]


def test_the_readme_names_every_directive_of_the_guides_file() -> None:
    recipe = (REPOSITORY / "benchmarks" / "on_host" / "recipe.conf").read_text()
    table = (ROLES / "nginx" / "README.md").read_text().partition("directive by directive")[2].partition("\n## ")[0]
    first_column = "\n".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| "))
    named = set(re.findall(r"^ *([a-z_]+) [^;\n]*(?:;|$)", recipe, re.MULTILINE)) - {
        "rewrite",
        "events",
        "http",
        "server",
        "location",
        "if",
    }
    assert len(named) > 20
    assert {name for name in named if name not in first_column} == set()


def test_an_nginx_that_is_about_to_stop_tells_balancers_and_answers_everybody_else() -> None:
    given = {"nginx_leave_seconds": 4, "nginx_health_path": "/health", "nginx_body_sizes": {"= /health": "2M"}}
    http = conf(**given).block("http")
    # who asks for a client says so, and has an answer
    text = nginx_conf(**given)
    assert re.search(r"map \$http_x_forwarded_for \$leaving \{\s+''\s+/run/nginx\.leaving;\s+default '';\s+\}", text)
    location = site_of(http).block("location", "=", "/health")
    assert location.get("client_max_body_size") == ["2M"]
    assert text.count("location = /health {") == 1
    assert "(-e $leaving)" not in nginx_conf(nginx_leave_seconds=0), "where nobody is in front, nobody asks"
    drop_in = "nginx/etc/systemd/system/nginx.service.d/eyewall.conf.j2"
    assert "touch /run/nginx.leaving; sleep 4" in render(drop_in, nginx_leave_seconds=4)
    assert "nginx.leaving" not in render(drop_in, nginx_leave_seconds=0)


# ---- What nginx answers by itself ----


def test_each_of_its_own_answers_has_a_page(http: Block, server: Block) -> None:
    texts = load_yaml(ROLES / "nginx" / "vars" / "main.yml")["__nginx_error_texts"]
    # of the site alone: a site of somebody else's has no such pages
    assert not http.has("error_page")
    every, too_large = server.all("error_page")
    assert every == [*map(str, texts), "/.eyewall/error.$error_format"]
    assert too_large == ["494", "=431", "/.eyewall/error.$error_format"], (
        "nginx's own number for a head that is too large"
    )
    said = {words[0]: words[1] for words in http.block("map", "$status", "$error_text").directives}
    assert said.keys() == {"default", *map(str, texts)}
    # what stands further out is dropped as soon as one stands further in
    for location in (server.block(*STATIC), *server.block(*STATIC).blocks):
        inner, *rest = location.all("error_page")
        others = [status for status in map(str, texts) if status not in {"403", "404"}]
        assert [*inner[:2], *rest[0][:-1]] == ["403", "404", *others]
    # which are read at each error, so that a changed one takes no reload; nobody else may ask for them
    assert server.block("location", "=", "/.eyewall/error.html").get("alias") == ["/etc/nginx/error.html"]
    assert server.block("location", "=", "/.eyewall/error.html").has("internal")
    assert server.block("location", "=", "/.eyewall/error.json").has("internal")


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "html"),
        ("*/*", "html"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "html"),
        ("application/json, text/plain, */*", "html"),
        ("application/json", "json"),
        ("application/json;q=0.9", "json"),
        ("application/vnd.api+json, application/json", "json"),
        ("application/problem+json", "json"),
        ("application/jsonp", "html"),
        ("application/json,application/problem+json ; q=0.5 , application/json", "json"),
        ("application/json,application/json,text/html", "html"),
        ("text/html,application/json", "html"),
    ],
)
def test_json_for_who_accepts_only_json(http: Block, accept: str, form: str) -> None:
    default, (pattern, other) = http.block("map", "$http_accept", "$error_format").directives
    assert default == ["default", "html"]
    assert (other if re.search(pattern[2:], accept, re.IGNORECASE) else default[1]) == form


def test_types_are_those_of_python_and_of_current_nginx(http: Block) -> None:
    """Tornado asks Python's mimetypes; what nginx does not know is octet-stream, with nosniff, for ten years."""
    known = {extension: words[0] for words in http.block("types").directives for extension in words[1:]}
    pairs = [(words[0], extension) for words in http.block("types").directives for extension in words[1:]]
    assert len(pairs) == len(known), "each stands once"
    types = mimetypes.MimeTypes(filenames=()).types_map[1]
    # what browsers need by another name, and what the registry (RFC 9239, 9512) has by another one since
    ours = {"js": "application/javascript", "mjs": "application/javascript"}
    for extension, kind in types.items():
        found = known.get(extension.removeprefix("."))
        assert found == ours.get(extension.removeprefix("."), kind), extension
    wanted = {
        "webmanifest": "application/manifest+json",
        "csv": "text/csv",
        "avif": "image/avif",
        "woff2": "font/woff2",
    }
    wanted |= {"wasm": "application/wasm", "webp": "image/webp", "map": "application/json", "md": "text/markdown"}
    assert wanted.items() <= known.items()


def test_the_sizes_of_heads() -> None:
    http = conf(nginx_request_headers_size="48k", nginx_response_headers_size="20k").block("http")
    assert http.get("large_client_header_buffers") == ["2", "48k"]
    assert http.get("proxy_buffer_size") == http.get("proxy_busy_buffers_size") == ["20k"]
    number, size = http.get("proxy_buffers")
    # nginx: proxy_busy_buffers_size must be less than the size of all proxy_buffers minus one buffer
    assert (int(number) - 1) * int(size.removesuffix("k")) > 20


def test_both_roles_have_the_same_page() -> None:
    assert (ROLES / "nginx/files/error.html").read_text() == (ROLES / "haproxy/files/error.html").read_text()
