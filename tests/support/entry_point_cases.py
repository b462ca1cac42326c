# ruff: noqa: E501 -- tables, a line for each
"""What each entrance of a host is asked, and which of the differences between its answers are meant."""

import re
from dataclasses import dataclass
from typing import Any


def request(line: str, *headers: str, body: bytes = b"", host: str | None = "site.test") -> bytes:
    """Make a request that ends with its answer. A line without a version is of HTTP/1.1."""
    line = line if " HTTP/" in line else f"{line} HTTP/1.1"
    hosts = [] if host is None else [f"Host: {host}"]
    return "\r\n".join([line, *hosts, *headers, "Connection: close", "", ""]).encode("latin-1") + body


def chunked(*parts: bytes, trailer: bytes = b"") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n" + trailer + b"\r\n"


CHUNKED = "Transfer-Encoding: chunked"
CASES: dict[str, bytes] = {
    # methods
    **{method: request(f"{method} /m") for method in ("GET", "HEAD", "OPTIONS", "DELETE", "PROPFIND", "PURGE", "BREW")},
    **{f"{method} with a body": request(f"{method} /m", "Content-Length: 3", body=b"a=b") for method in (
        "GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW")},
    **{f"{method} with an empty body": request(f"{method} /m", "Content-Length: 0") for method in ("POST", "PUT", "PATCH")},
    **{f"{method} without a length": request(f"{method} /m") for method in ("POST", "PUT", "PATCH")},
    "a method nobody has": request("NOSUCH /m"),
    "a small method": request("get /m"),
    "TRACE": request("TRACE /m"),
    "CONNECT": request("CONNECT site.test:80"),
    "OPTIONS *": request("OPTIONS *"),
    "a handler without the method": request("POST /cookies?n=1&size=1", "Content-Length: 0"),
    "a handler without methods": request("GET /empty"),
    # paths
    **{f"path {path}": request(f"GET {path}") for path in (
        "/a//b", "//a", "/a/../b", "/a/./b", "/../a", "/a%2fb", "/a%2Fb", "/a%00b", "/a%0ab", "/a%20b", "/a+b", "/a;b=c", "/a%3bb",
        "/a%zzb", "/a%", "/%e4%b8%ad", "/a?b=c?d", "/a?", "/a??", "/a?b=%zz", "/a?b=%00", "/a?b[]=c|d", "/a&b=c", "/a\\b", "/a\"b", "/a<b>",
        "/a{b}", "/a^b", "/a`b", "/a~b", "/a'b", "/a:b@c", "/a,b=c!$*()", "/.", "/..", "/.well-known/x", "/a.", "/a/", "/a%2e%2e/b",
        "/%2e%2e/a", "/A%41", "/caf\xe9", "/a#b", "/a?b#c", "/a.php", "/index.html")},
    "an absolute URI": request("GET http://site.test/a?b"),
    "an absolute URI of another": request("GET http://other.test/a"),
    "a space in the path": request("GET /a b HTTP/1.1"),
    "two spaces": request("GET  /a HTTP/1.1"),
    "no slash": request("GET a HTTP/1.1"),
    "a path of 4 KB": request(f"GET /{'x' * 4000}"),
    "a path of 12 KB": request(f"GET /{'x' * 12000}"),
    "a query of 30 KB": request(f"GET /a?{'x' * 30000}"),
    "a path of 40 KB": request(f"GET /{'x' * 40000}"),
    # versions and hosts
    "HTTP/1.0": request("GET /a HTTP/1.0"),
    "HTTP/1.0 without Host": request("GET /a HTTP/1.0", host=None),
    "HTTP/1.0 kept": request("GET /a HTTP/1.0", "Connection: keep-alive"),
    "HTTP/1.1 without Host": request("GET /a", host=None),
    "HTTP/1.2": request("GET /a HTTP/1.2"),
    "HTTP/2.0": request("GET /a HTTP/2.0"),
    "HTTP/0.9": b"GET /a\r\n\r\n",
    "an empty Host": request("GET /a", host=""),
    "two Hosts": request("GET /a", "Host: other.test"),
    "a Host with a port": request("GET /a", host="site.test:8080"),
    "a Host in capitals": request("GET /a", host="SITE.test"),
    "a Host with a dot": request("GET /a", host="site.test."),
    "an IPv6 Host": request("GET /a", host="[::1]:80"),
    "a Host that is none": request("GET /a", host="a b"),
    "a Host with a user": request("GET /a", host="u@site.test"),
    # headers of the request
    "a cookie of 9 KB": request("GET /a", f"Cookie: c={'x' * 9000}"),
    "a head of 31 KB": request("GET /a", *[f"X-{number}: {'x' * 970}" for number in range(31)]),
    "a header of 31 KB": request("GET /a", f"Cookie: {'x' * 31000}"),
    "a header of 40 KB": request("GET /a", f"Cookie: {'x' * 40000}"),
    "a hundred small headers": request("GET /a", *[f"X-{number}: y" for number in range(90)]),
    "many headers": request("GET /a", *[f"X-{number}: y" for number in range(150)]),
    "a name with an underscore": request("GET /a", "X_Token: y"),
    "a name with a dot": request("GET /a", "X.Token: y"),
    "a name in small letters": request("GET /a", "x-token: y", "X-TOKEN: z"),
    "a name with a blank": request("GET /a", "X-Token : y"),
    "a name with a bracket": request("GET /a", "X[T]: y"),
    "no name": request("GET /a", ": y"),
    "no colon": request("GET /a", "X-Token"),
    "the same name twice": request("GET /a", "X-Token: y", "X-Token: z"),
    "two cookies": request("GET /a", "Cookie: a=b", "Cookie: c=d"),
    "an empty value": request("GET /a", "X-Token:"),
    "a value of Latin 1": request("GET /a", "X-Token: caf\xe9"),
    "a value with a tab": request("GET /a", "X-Token: a\tb"),
    "a value with a control": request("GET /a", "X-Token: a\x01b"),
    "a value with a NUL": request("GET /a", "X-Token: a\x00b"),
    "a folded value": request("GET /a", "X-Token: a\r\n b"),
    "lines without CR": request("GET /a").replace(b"\r\n", b"\n"),
    "an empty line first": b"\r\n" + request("GET /a"),
    "headers of a connection": request("GET /a", "Keep-Alive: timeout=5", "TE: trailers", "Proxy-Connection: x", "Upgrade: h2c"),
    "a header named by Connection": request("GET /a", "X-Hop: y", "Connection: X-Hop"),
    "what a proxy would say": request("GET /a", "X-Forwarded-For: 1.2.3.4", "X-Real-IP: 1.2.3.4", "Remote-User: root", "X-Scheme: https"),
    "usual headers": request("GET /a", "User-Agent: x", "Accept: */*", "Accept-Language: de", "Referer: http://a/", "DNT: 1",
                             "Origin: http://a", "Authorization: Basic eDp5", "Range: bytes=0-1", "If-Match: x", "Cache-Control: no-cache",
                             "Pragma: no-cache", "Accept-Encoding: br", "Sec-Fetch-Mode: cors", "X-Requested-With: x", "Date: x",
                             "From: a@b", "Max-Forwards: 3", "Via: 1.0 x", "Forwarded: for=1"),
    # bodies
    "chunked": request("POST /m", CHUNKED, body=chunked(b"a=", b"b")),
    "chunked and empty": request("POST /m", CHUNKED, body=chunked()),
    "chunked with a trailer": request("POST /m", CHUNKED, "Trailer: X-Sum", body=chunked(b"abc", trailer=b"X-Sum: 1\r\n")),
    "chunked with an extension": request("POST /m", CHUNKED, body=b"3;x=y\r\nabc\r\n0\r\n\r\n"),
    "chunked GET": request("GET /m", CHUNKED, body=chunked(b"abc")),
    "a bad chunk": request("POST /m", CHUNKED, body=b"zz\r\nabc\r\n0\r\n\r\n"),
    "gzip, chunked": request("POST /m", "Transfer-Encoding: gzip, chunked", body=chunked(b"abc")),
    "identity": request("POST /m", "Transfer-Encoding: identity", body=b"abc"),
    "both lengths": request("POST /m", CHUNKED, "Content-Length: 3", body=chunked(b"abc")),
    "two lengths": request("POST /m", "Content-Length: 3", "Content-Length: 4", body=b"abcd"),
    "two equal lengths": request("POST /m", "Content-Length: 3", "Content-Length: 3", body=b"abc"),
    "a negative length": request("POST /m", "Content-Length: -3", body=b"abc"),
    "a length with a plus": request("POST /m", "Content-Length: +3", body=b"abc"),
    "a body of 900 KB": request("POST /m", "Content-Length: 900000", body=b"x" * 900000),
    "a body of 2 MB": request("POST /m", "Content-Length: 2000000", body=b"x" * 2000000),
    "a chunked body of 2 MB": request("POST /m", CHUNKED, body=chunked(b"x" * 2000000)),
    "a compressed body": request("POST /m", "Content-Encoding: gzip", "Content-Length: 3", body=b"abc"),
    "Expect: 100-continue": request("POST /m", "Expect: 100-continue", "Content-Length: 3", body=b"abc"),
    "Expect of something else": request("POST /m", "Expect: miracles", "Content-Length: 3", body=b"abc"),
    "Expect and too large": request("POST /m", "Expect: 100-continue", "Content-Length: 2000000"),
    "an early answer": request("POST /early", "Content-Length: 300000", body=b"x" * 300000),
    "an early answer to a chunked body": request("POST /early", CHUNKED, body=chunked(b"x" * 3000)),
    # answers
    **{f"status {status}": request(f"GET /status/{status}") for status in (
        200, 201, 202, 204, 206, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 410, 418, 421, 429, 451, 494, 499, 500, 502, 503,
        504, 599)},
    **{f"HEAD {status}": request(f"HEAD /status/{status}") for status in (200, 204, 301, 304, 404, 500)},
    "DELETE 204": request("DELETE /status/204"),
    "headers of an answer": request("GET /headers"),
    "twenty cookies": request("GET /cookies?n=20&size=20"),
    "cookies of 4.5 KB": request("GET /cookies?n=2&size=2200"),
    "cookies of 15 KB": request("GET /cookies?n=4&size=3750"),
    "cookies of 40 KB": request("GET /cookies?n=10&size=4000"),
    "HEAD of cookies": request("HEAD /cookies?n=2&size=10"),
    "flushed": request("GET /flushed"),
    "flushed, HTTP/1.0": request("GET /flushed HTTP/1.0"),
    "HEAD of what is flushed": request("HEAD /flushed"),
    # encodings, conditions, ranges
    "text": request("GET /tags"),
    "text with gzip": request("GET /tags", "Accept-Encoding: gzip"),
    "text with gzip, HTTP/1.0": request("GET /tags HTTP/1.0", "Accept-Encoding: gzip"),
    "text without gzip": request("GET /tags", "Accept-Encoding: gzip;q=0"),
    "HEAD with gzip": request("HEAD /tags", "Accept-Encoding: gzip"),
    "JSON with gzip": request("GET /tags?type=application/json", "Accept-Encoding: gzip"),
    "a picture with gzip": request("GET /tags?type=image/png", "Accept-Encoding: gzip"),
    "If-None-Match": request("GET /tags", 'If-None-Match: "ETAG"'),
    "If-None-Match, weak": request("GET /tags", 'If-None-Match: W/"ETAG"'),
    "If-None-Match *": request("GET /tags", "If-None-Match: *"),
    "If-Match": request("GET /tags", 'If-Match: "no"'),
    "If-Modified-Since": request("GET /status/200", "If-Modified-Since: Mon, 01 Jan 2024 00:00:00 GMT"),
    "If-Unmodified-Since": request("GET /status/200", "If-Unmodified-Since: Mon, 01 Jan 2001 00:00:00 GMT"),
    "Range of what has none": request("GET /tags", "Range: bytes=0-4"),
    "If-Range": request("GET /tags", "Range: bytes=0-4", 'If-Range: "x"'),
    # orders to nginx
    **{f"answer with {name}": request(f"GET /accel?name={name}&value={value}") for name, value in (
        ("X-Accel-Redirect", "/m"), ("X-Accel-Limit-Rate", "100000"), ("X-Accel-Expires", "10"), ("X-Accel-Charset", "utf-8"),
        ("Server", "mine"), ("Date", "mine"), ("Connection", "close"), ("Content-Encoding", "identity"))},
}  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """What one entrance makes of a request, where it is not what the process itself answers."""

    case: str
    entrance: str
    field: str
    direct: Any
    seen: Any


@dataclass(frozen=True)
class Meant:
    """Differences that are meant: each that all three expressions match, for a reason."""

    entrance: str
    case: str
    field: str
    reason: str

    def covers(self, one: Difference) -> bool:
        names = ((self.entrance, one.entrance), (self.case, one.case), (self.field, one.field))
        return all(re.fullmatch(pattern, name, re.DOTALL) for pattern, name in names)


BOTH = "nginx|haproxy"
EVERY = ".*"
NO_REQUEST = "path /a%00b|path /a%zzb|path /a%|path /../a|path /%2e%2e/a|path /\\.\\.|OPTIONS \\*|no slash|an empty Host|two equal lengths"
LENIENT = "two spaces|a folded value|chunked with a trailer|chunked with an extension|both lengths|HTTP/2.0|HTTP/0.9|no colon|a name with a bracket"
MEANT = (
    # what a proxy is for
    Meant(BOTH, EVERY, "header server", "the version of what answers is nobody's business"),
    Meant(BOTH, EVERY, "seen header x-(real-ip|scheme|request-id)", "what the application is told of its client"),
    Meant(
        BOTH,
        EVERY,
        "seen header (connection|keep-alive|te|trailer|upgrade|expect|transfer-encoding)",
        "of one connection alone",
    ),
    Meant(BOTH, EVERY, "seen version", "nginx speaks HTTP/1.1 to the processes, whatever the client speaks"),
    Meant(
        BOTH,
        "what a proxy would say|usual headers",
        "seen header (forwarded|remote-user|x-forwarded-for)",
        "no client's to say",
    ),
    Meant(
        BOTH, "an absolute URI", "seen uri", "its host is in Host; an origin server is sent the path (RFC 9112, 3.2.1)"
    ),
    Meant(BOTH, "HTTP/1.0 without Host", "seen (header )?host", "the site's name: HTTP/1.1 to the processes needs one"),
    Meant(
        BOTH,
        "a name with an underscore|a name with a dot",
        "seen header x.token",
        "the same name as another one to WSGI and CGI",
    ),
    Meant(
        BOTH,
        "(chunked.*|both lengths)",
        "seen header content-length",
        "HAProxy and nginx know a short body whole, and say how long",
    ),
    Meant(BOTH, EVERY, "header x-accel-.*", "an order to nginx"),
    Meant(BOTH, "answer with X-Accel-Redirect", EVERY, "an order to nginx, obeyed: what is inside is answered"),
    Meant(BOTH, EVERY, "header connection", "who closes a connection says so"),
    Meant(BOTH, "HEAD", "header content-length", "of what the application was told, above"),
    # compression
    Meant(BOTH, EVERY, "header vary", "it may be compressed for another client"),
    Meant(BOTH, ".*with gzip", "header (content-encoding|content-length|transfer-encoding)", "compressed by nginx"),
    Meant(BOTH, ".*with gzip", "header etag", "weak: the bytes are others"),
    # refused by nginx or HAProxy
    Meant(BOTH, EVERY, "by", "whoever refuses a request has a page for it"),
    Meant(BOTH, NO_REQUEST, "status", "nginx takes it for no request"),
    Meant(BOTH, "CONNECT|a small method", "status", "the same"),
    Meant(
        BOTH,
        "path /a/\\.\\./b",
        "status",
        "404 beside nginx_denied_paths: nginx resolves it, and the application sees what was written",
    ),
    Meant(
        BOTH,
        "a header of 40 KB",
        "status",
        "431: larger than nginx_request_headers_size; HAProxy's 400 where it does not fit its buffer",
    ),
    Meant(BOTH, "a path of 40 KB", "status", "414, the same"),
    Meant(BOTH, "cookies of 40 KB", "status", "502: larger than nginx_response_headers_size"),
    Meant(BOTH, "an absolute URI of another", "status", "the request line and Host name two hosts"),
    Meant(
        BOTH,
        "gzip, chunked|identity",
        "status",
        "no server here takes another encoding than chunked; each refuses it in its way",
    ),
    Meant(
        "haproxy",
        "path /a#b|path /a\\?b#c|path /caf\xe9|many headers",
        "status",
        "HAProxy is strict (its option accept-invalid-http-request)",
    ),
    # what is refused by Tornado, and passed on in another form
    Meant(
        BOTH,
        LENIENT,
        "(status|body|continued|seen .*|header (content-type|etag|date|server))",
        "nginx and HAProxy read it, and pass it on as it should be",
    ),
    Meant(
        BOTH,
        EVERY,
        "header (date|transfer-encoding)",
        "where an answer lacks them, nginx makes them",
    ),
)
