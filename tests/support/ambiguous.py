"""Requests that a proxy and a server may read differently, each with another one in what may be its body."""

FORGED = b"GET /forged HTTP/1.1\r\nHost: x\r\n\r\n"
BODY = b"Content-Length: %d\r\n\r\n" % len(FORGED) + FORGED
CHUNKED = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(FORGED), FORGED)
# What a proxy and a server may read differently. Where the forged request is a body, it must not be run as a request.
AMBIGUOUS = {
    name: [b"POST / HTTP/1.1\r\nHost: x\r\n" + rest, b"POST /streams HTTP/1.1\r\nHost: x\r\n" + rest]
    for name, rest in {
        "upgrade to h2c": b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n" + BODY,
        "upgrade to websocket": b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + BODY,
        "upgrade with chunks": b"Connection: Upgrade\r\nUpgrade: websocket\r\n" + CHUNKED,
        "expect": b"Expect: 100-continue\r\n" + BODY,
        "expect with chunks": b"Expect: 100-continue\r\n" + CHUNKED,
        "two equal lengths": b"Content-Length: %d\r\n" % len(FORGED) + BODY,
        "two unequal lengths": b"Content-Length: 0\r\n" + BODY,
        "length and chunks": b"Content-Length: 5\r\n" + CHUNKED,
        "chunks and length": b"Transfer-Encoding: chunked\r\n" + BODY,
        "chunks twice": b"Transfer-Encoding: chunked\r\n" + CHUNKED,
        "identity": b"Transfer-Encoding: identity\r\n" + BODY,
        "a blank before the colon": b"Content-Length : %d\r\n\r\n" % len(FORGED) + FORGED,
        "a folded length": b"Content-Length:\r\n %d\r\n\r\n" % len(FORGED) + FORGED,
        "a signed length": b"Content-Length: +%d\r\n\r\n" % len(FORGED) + FORGED,
        "a hexadecimal length": b"Content-Length: 0x%x\r\n\r\n" % len(FORGED) + FORGED,
        "a length with an underscore": b"Content-Length: 3_5\r\n\r\n" + FORGED,
        "a length with zeros": b"Content-Length: 000%d\r\n\r\n" % len(FORGED) + FORGED,
        "an unknown coding": b"Transfer-Encoding: xchunked\r\n\r\n" + FORGED,
        "a vertical tab": b"Transfer-Encoding:\x0bchunked\r\n\r\n" + FORGED,
        "a bare CR": b"X: y\rTransfer-Encoding: chunked\r\n\r\n" + FORGED,
        "bare LF": b"X: y\nContent-Length: %d\n\n" % len(FORGED) + FORGED,
        "a NUL": b"Content-Length: %d\x00\r\n\r\n" % len(FORGED) + FORGED,
        "a chunk's extension": b"Transfer-Encoding: chunked\r\n\r\n%x;a=b\r\n%s\r\n0\r\n\r\n" % (len(FORGED), FORGED),
        "a chunk without an end": b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s0\r\n\r\n" % (len(FORGED), FORGED),
        "a chunk of bare LF": b"Transfer-Encoding: chunked\r\n\r\n%x\n%s\n0\n\n" % (len(FORGED), FORGED),
        "a trailer": b"Transfer-Encoding: chunked\r\n\r\n0\r\nX: y\r\n\r\n",
        "a signed chunk": b"Transfer-Encoding: chunked\r\n\r\n+%x\r\n%s\r\n0\r\n\r\n" % (len(FORGED), FORGED),
        "a huge chunk": b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffff\r\n" + FORGED,
        "an empty length": b"Content-Length:\r\n\r\n" + FORGED,
        "a negative length": b"Content-Length: -1\r\n\r\n" + FORGED,
        "a length with a point": b"Content-Length: %d.0\r\n\r\n" % len(FORGED) + FORGED,
        "a list of equal lengths": b"Content-Length: %d, %d\r\n\r\n" % (len(FORGED), len(FORGED)) + FORGED,
        "a list of unequal lengths": b"Content-Length: %d, 0\r\n\r\n" % len(FORGED) + FORGED,
        "a coding in capitals": b"TRANSFER-ENCODING: CHUNKED\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(FORGED), FORGED),
        "a coding in quotes": b'Transfer-Encoding: "chunked"\r\n\r\n' + FORGED,
        "another coding before": b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + FORGED,
        "another coding behind": b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + FORGED,
        "an empty coding": b"Transfer-Encoding:\r\n" + BODY,
        "a blank behind a chunk's size": b"Transfer-Encoding: chunked\r\n\r\n%x \r\n%s\r\n0\r\n\r\n" % (len(FORGED), FORGED),
        "a chunk's size with 0x": b"Transfer-Encoding: chunked\r\n\r\n0x%x\r\n%s\r\n0\r\n\r\n" % (len(FORGED), FORGED),
        "no blank line": b"Content-Length: 0\r\n" + FORGED,
    }.items()
}  # fmt: skip
FRAMED = (
    "upgrade to h2c",
    "upgrade to websocket",
    "upgrade with chunks",
    "expect",
    "expect with chunks",
    "two equal lengths",
)
