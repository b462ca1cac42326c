"""Conversations that the runner's core and Tornado's once answered differently, and others like them: compared in every run.

A conversation that fuzzing finds (`test_connection.py` prints it) goes here, as short as it can be and still differ.
"""

from typing import Any

_GZIP = b"POST /streams?wait=1 HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
_POST = b"POST /streams HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
_GET = b"GET / HTTP/1.1\r\nHost: x\r\n"

# By name: the server's options, and what is sent, piece by piece.
DIFFERENCES: dict[str, tuple[dict[str, Any], list[bytes]]] = {
    # Tornado looks later, and sees the second fault, which has no answer, before the first.
    "no gzip, and then no chunk": (
        {"decompress_request": True},
        [b"POST /raises HTTP/1.1\r\nHost: x\r\n\r\n" + _GZIP + b"1\r\ny\r\n0\n\n" + b"x" * 40, b"x" * 600],
    ),
    # Tornado runs the second, and nobody gets its answer.
    "after an answer that ends the connection": ({}, [_GET + b"Connection: close\r\n\r\n" + _GET + b"\r\n"]),
    "after an answer that came before the body": (
        {},
        [b"POST /streams?early=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", b"cde" + _GET + b"\r\n"],
    ),
    "a body that ends in the middle": ({}, [_POST + b"\r\nab"]),
    "a chunk that ends in the middle": ({}, [_GZIP.replace(b"gzip", b"identity") + b"5\r\nab"]),
    "a body of gzip that ends in the middle": (
        {"decompress_request": True},
        [_POST + b"Content-Encoding: gzip\r\n\r\n\x1f\x8b\x08\0\0" + _GET + b"\r\n"],
    ),
    "an unequal length after an answer": ({}, [_GET + b"\r\n" + _POST + b"Content-Length: 6\r\n\r\nabcde"]),
}
