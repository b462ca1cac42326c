"""eyewall.head beside Tornado's own parser: the same bytes, the same request, or the same error."""

import random
import time
from collections.abc import Callable
from typing import Any, NoReturn, cast

import pytest
from eyewall import head
from eyewall.head import split_head
from tornado.http1connection import HTTP1Connection
from tornado.httputil import HTTPHeaders, HTTPInputError, parse_request_start_line

BROWSER = (
    b"GET /messages?after=17 HTTP/1.1\r\nHost: board.example.com\r\nX-Real-IP: 203.0.113.9\r\n"
    b'sec-ch-ua: "Chromium";v="140", "Not=A?Brand";v="24"\r\nUpgrade-Insecure-Requests: 1\r\n'
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36\r\nAccept: */*\r\nDNT: 1\r\n"
    b"Cookie: _xsrf=2|7586b241; theme=dark\r\nAccept-Language: de,en;q=0.8\r\n\r\n"
)


def by_tornado(data: bytes) -> tuple[str, HTTPHeaders]:
    return HTTP1Connection._parse_headers(cast(Any, None), data)


def outcome(split: Callable[[bytes], tuple[str, HTTPHeaders]], data: bytes) -> object:
    """Return all that an application can see of a head, or the error."""
    try:
        line, headers = split(data)
        start_line = parse_request_start_line(line)
    except HTTPInputError as error:
        return repr(error)
    pairs = list(headers.get_all())
    seen = [
        start_line, type(line), pairs, list(headers), dict(headers), len(headers), str(headers),
        [headers.get_list(name.upper()) for name in headers], "host" in headers,
    ]  # fmt: skip
    # what an application and the core do to headers
    copied: object
    headers.add("X-Added", "1")
    headers["Host"] = "changed"
    for name, _ in pairs:
        headers.add(name, "2")
    del headers["X-Added"]
    try:
        copied = list(headers.copy().get_all())
    except HTTPInputError as error:  # Tornado 6.5 folds lines, and refuses to copy some that it has folded
        copied = repr(error)
    return seen, copied, dict(headers)


# What heads are made of, well-formed and not; a generator takes most from the first half.
LINES = (
    [
        b"GET / HTTP/1.1", b"POST /a?b=c HTTP/1.0", b"M-SEARCH * HTTP/1.1", b"\xe4 / HTTP/1.1", b"GET /\xfc HTTP/1.1",
        b"OPTIONS http://h:80/ HTTP/1.1", b"get / HTTP/1.1",
    ],
    [
        b"GET  / HTTP/1.1", b"GET / HTTP/1.1 ", b"GET / HTTP/1.2", b"GET / HTTP/2.0", b"GET / http/1.1", b"GET /", b"",
        b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET / HTTP/1.1\r", b"GET /a b HTTP/1.1", b"\r",
        b"\r\nGET / HTTP/1.1", b"\n\nGET / HTTP/1.1", b"G(T / HTTP/1.1", b"GET / HTTP/1.1\x0b", b"GET /\x85 HTTP/1.1",
    ],
)  # fmt: skip
NAMES = (
    [
        b"Host",
        b"host",
        b"HOST",
        b"Cookie",
        b"X-Real-IP",
        b"sec-ch-ua",
        b"Content-Length",
        b"a",
        b"!#$%&'*+-.^_`|~09",
        b"A--b",
    ],
    [b"", b"X Y", b" X", b"X ", b"\tX", b"X\xe4", b"X(", b"X\x00", b"X\r", b"X\x85", b"X\x7f", b'"', b"X\x0c", b"-"],
)
COLONS = ([b": "], [b":", b" : ", b":  ", b":\t", b": \t", b"", b"::", b"\r\n:", b":\r\n "])
VALUES = (
    [b"a", b"a b", b"a\tb", b"a:b: c", b'"\\,;=', b"\xe4\xff", b"5, 5", b"close", b"a  b", b"~", b"!", b"\xa0a\xa0"],
    [
        b"",
        b" ",
        b"a ",
        b"a\t",
        b" a",
        b"a\x00",
        b"\x7f",
        b"a\rb",
        b"\x0b",
        b"a\x1f",
        b"\x85",
        b"a\nb",
        b"\r",
        b"\x80",
        b"\xad",
    ],
)
ENDS = ([b"\r\n"], [b"\n", b"\r\r\n", b"\n\n", b"\r", b"", b" \r\n", b"\x00\r\n", b"\r\n\t", b"\r\n "])


def heads(seed: int, number: int, wild: float) -> list[bytes]:
    random_ = random.Random(seed)  # noqa: S311 - no secret

    def pick(choices: tuple[list[bytes], list[bytes]]) -> bytes:
        return random_.choice(choices[random_.random() < wild])

    made = []
    for _ in range(number):
        data = pick(LINES) + pick(ENDS)
        for _ in range(random_.randrange(6)):
            data += pick(NAMES) + pick(COLONS) + pick(VALUES) + pick(ENDS)
        made.append(data + random_.choice([b"\r\n", b"\r\n", b"\r\n", b"\n", b""]))
    return made


@pytest.mark.parametrize("wild", [0, 0.03, 0.3])
def test_a_head_is_what_tornado_makes_of_it(wild: float, seed: int) -> None:
    for data in heads(seed, 5000, wild):
        assert outcome(split_head, data) == outcome(by_tornado, data), data


@pytest.mark.parametrize("place", range(0, len(BROWSER), 3))
def test_one_wrong_byte_anywhere_is_what_tornado_makes_of_it(place: int) -> None:
    for byte in range(256):
        data = BROWSER[:place] + bytes([byte]) + BROWSER[place + 1 :]
        assert outcome(split_head, data) == outcome(by_tornado, data), data
    for data in (BROWSER[:place] + BROWSER[place + 1 :], BROWSER[:place], BROWSER[place:]):
        assert outcome(split_head, data) == outcome(by_tornado, data), data


def test_what_is_well_formed_needs_no_tornado(monkeypatch: pytest.MonkeyPatch) -> None:
    if not head.knows_headers:
        pytest.skip("this Tornado parses every head itself")

    def refuse(data: bytes) -> NoReturn:
        raise AssertionError(data)

    expected = outcome(by_tornado, BROWSER)
    monkeypatch.setattr(HTTP1Connection, "_parse_headers", staticmethod(lambda _, data: refuse(data)))
    assert outcome(split_head, BROWSER) == expected
    assert outcome(split_head, b"GET / HTTP/1.0\r\n\r\n")
    # and the control: what is not is asked of Tornado
    with pytest.raises(AssertionError):
        split_head(BROWSER.replace(b"DNT: ", b"DNT:"))


@pytest.mark.parametrize(
    "filling",
    [b"a", b" ", b"a:", b"a: b", b": ", b"\r", b"a: b\r\n\r", b"a: b\n", b"\t", b"a: \r\n", b"a: b \r\n", b"a: b\r\n"],
)
def test_a_large_head_takes_time_in_proportion(filling: bytes) -> None:
    data = b"GET / HTTP/1.1\r\n" + filling * (65536 // len(filling)) + b"\r\n\r\n"
    begin = time.process_time()
    mine = outcome(split_head, data)
    took = time.process_time() - begin
    assert mine == outcome(by_tornado, data)
    # Some 30 ms. Without `^`, the expression begins at each byte of a long token, which takes 4 s.
    assert took < 1
