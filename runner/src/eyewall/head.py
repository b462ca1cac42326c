"""The head of a request: parsed fast where it is well-formed, and by Tornado otherwise.

Tornado's parser makes a dozen calls for each header line, which for the 16 headers that a browser and nginx send are a
third of a small request's CPU time. Here one regular expression takes all lines that are strictly well-formed: CRLF, a token,
a colon, one space, a value that neither begins nor ends with a space. Everything else (bare LF, folded lines, other blanks,
errors) goes to Tornado's own parser, so the language that is accepted, and what is said of the rest, stays Tornado's.

A Tornado whose `HTTPHeaders` has other attributes (6.5.0 to 6.5.2) parses every head itself.
"""

import re
from typing import Any, cast

from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, RequestStartLine, parse_request_start_line

from eyewall.private import normalize_header

# RFC 9110, 5.6.2: token; 5.5: field-value, with obs-text, as Tornado has it. Nothing here backtracks (``++``, ``*+``), and a
# line is tried where a line begins alone (``^``), so a head takes time in proportion to its length, whatever it is.
_REQUEST_LINE = re.compile(r"([!#$%&'*+\-.^_`|~0-9A-Za-z]++) ([!-~\x80-\xff]++) (HTTP/1\.[01])\r\n")
_FIELD = re.compile(
    r"^([!#$%&'*+\-.^_`|~0-9A-Za-z]++): (?![\t ])([\t -~\x80-\xff]*+)(?<![\t ])\r\n",
    re.MULTILINE,
)
_PUNCTUATION = len(": \r\n")
# One string for all connections. (`sys.intern` keeps what a client sent forever in Python 3.12.0 to 3.12.5.)
_USUAL = {
    text: text
    for text in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "HTTP/1.0", "HTTP/1.1")
}

knows_headers = vars(HTTPHeaders()).keys() == {"_as_list", "_combined_cache"}


def well_formed(data: bytes) -> tuple[RequestStartLine, HTTPHeaders] | None:
    """Return the start line and the headers of a head that is strictly well-formed, None of any other `data`."""
    text = data.decode("latin1")
    line = _REQUEST_LINE.match(text)
    if line is None or not knows_headers:
        return None
    end = line.end()
    by_name: dict[str, list[str]] = {}
    left = len(text) - end - 2  # bytes that belong to no line yet
    for name, value in _FIELD.findall(text, end):
        left -= len(name) + len(value) + _PUNCTUATION
        normalized = normalize_header(name)
        if normalized in by_name:
            by_name[normalized].append(value)
        else:
            by_name[normalized] = [value]
    if left or not text.endswith("\r\n"):
        return None
    headers = HTTPHeaders.__new__(HTTPHeaders)
    headers._as_list = by_name
    headers._combined_cache = {}  # it is filled when a value is asked for
    method, path, version = line.groups()
    return RequestStartLine(_USUAL.get(method, method), path, _USUAL[version]), headers


def parse_head(data: bytes) -> tuple[RequestStartLine, HTTPHeaders]:
    """Return the start line and the headers of `data`, a head with the empty line that ends it, as Tornado parses them.

    Raises `tornado.httputil.HTTPInputError` if it is malformed.
    """
    line, headers = HTTP1Connection._parse_headers(cast(Any, None), data)
    return parse_request_start_line(line), headers


def split_head(data: bytes) -> tuple[str, HTTPHeaders]:
    """Do as ``HTTP1Connection._parse_headers``, in whose place this can be put; Tornado parses the start line then.

    Raises `tornado.httputil.HTTPInputError` if a header is malformed.
    """
    parsed = well_formed(data)
    if parsed is None:
        return HTTP1Connection._parse_headers(cast(Any, None), data)
    return " ".join(parsed[0]), parsed[1]
