"""Headers of a request that lasts: a quarter of an idle WebSocket's memory is what its handshake said, and nobody asks again.

Measured with the 21 headers of a browser behind nginx: 4.7 KB as Tornado has them, 0.6 KB packed (`benchmarks/memory.py`).

Headers of a Tornado that has other attributes (6.5.0 to 6.5.2) are not packed.
"""

import zlib
from threading import Lock
from typing import Any

from tornado.httputil import HTTPHeaders

from eyewall.head import knows_headers

# What a handshake says more often than not, and zlib need not repeat; the likeliest last, as zlib's manual advises.
USUAL = (
    b"Content-Type:text/html; charset=UTF-8 Server:TornadoServer/ Date: GMT Origin:https:// Referer: Pragma:no-cache"
    b" Cache-Control:no-cache Sec-Fetch-Site:same-origin Sec-Fetch-Mode:websocket Sec-Fetch-Dest: Cookie:_xsrf=2|"
    b' sec-ch-ua:"Chromium";v="", "Not=A?Brand" sec-ch-ua-mobile:?0 sec-ch-ua-platform:"Windows" X-Scheme:https X-Real-Ip:'
    b" X-Request-Id: Accept:text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"
    b" Accept-Encoding:gzip, deflate, br, zstd Accept-Language:en-US,en;q=0.9 User-Agent:Mozilla/5.0 (X11; Linux x86_64)"
    b" (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/ Safari/537.36 Host:"
    b" Sec-Websocket-Extensions:permessage-deflate; client_max_window_bits Sec-Websocket-Version:13"
    b" Sec-Websocket-Accept: Sec-Websocket-Key: Connection:Upgrade Upgrade:websocket"
)


# Threads of an application may read headers at the same time.
_UNPACKING = Lock()


class PackedHeaders(HTTPHeaders):
    """Headers that are packed until something of them is asked for; from then on they are as they were."""

    def __getattr__(self, name: str) -> Any:
        with _UNPACKING:
            packed = self.__dict__.get("packed")
            if packed is not None:
                self.__dict__ = _unpacked(packed)
                self.__class__ = HTTPHeaders  # type: ignore[assignment]
        return object.__getattribute__(self, name)


def _unpacked(packed: bytes) -> dict[str, dict[str, Any]]:
    """Return what `HTTPHeaders` has; nothing is looked at again, for an application may have put anything in."""
    lists: dict[str, list[str]] = {}
    for line in zlib.decompressobj(zdict=USUAL).decompress(packed).decode().split("\n"):
        name, _, value = line.partition(":")
        lists.setdefault(name, []).append(value)
    return {"_as_list": lists, "_combined_cache": {name: ",".join(values) for name, values in lists.items()}}


def pack(headers: HTTPHeaders) -> None:
    """Pack `headers` until something of them is asked for. Those that would not be the same again stay as they are."""
    if type(headers) is not HTTPHeaders or not knows_headers:
        return
    lines = list(headers.get_all())
    if not lines or not all(
        isinstance(value, str) and value.isprintable() and name.isprintable() and ":" not in name
        for name, value in lines
    ):
        return
    packer = zlib.compressobj(9, zdict=USUAL)
    text = "\n".join(f"{name}:{value}" for name, value in lines).encode()
    packed = packer.compress(text) + packer.flush()
    headers.__class__ = PackedHeaders
    headers.__dict__ = {"packed": packed}
