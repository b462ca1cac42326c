"""A request of a WSGI server (PEP 3333), as Tornado has requests."""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self
from urllib.parse import quote, unquote_to_bytes

from tornado.httputil import HTTPHeaders, HTTPInputError, RequestStartLine

from eyewall.proxy_headers import ProxyHeaders

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse


class Refused(Exception):  # noqa: N818 - a decision
    """A request that is answered without the application: status, reason, sentence."""

    def __init__(self, status: int, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.answer = (status, reason, sentence)


def refuse(start_response: "StartResponse", status: int, reason: str, sentence: str) -> list[bytes]:
    """Answer with a sentence; the body."""
    body = f"{sentence}\n".encode()
    head = [("Content-Type", "text/plain; charset=UTF-8"), ("Content-Length", str(len(body)))]
    start_response(f"{status} {reason}", head)
    return [body]


@dataclass
class Context:
    """What Tornado asks a connection for."""

    remote_ip: str
    protocol: str


@dataclass
class Request:
    """What a request's head says, and its body, which is read in the server's thread."""

    line: RequestStartLine
    headers: HTTPHeaders
    body: IO[bytes]
    length: float  # of the body in bytes; inf: until it ends
    context: Context
    identity: str

    @classmethod
    def read(cls, environ: Mapping[str, Any], proxies: ProxyHeaders) -> Self:
        """Read a request's head. Raises `HTTPInputError`, `Refused`."""
        headers = HTTPHeaders()
        for key, value in environ.items():
            if key.startswith("HTTP_"):
                headers.add(key[5:].replace("_", "-"), value)
            elif key in ("CONTENT_TYPE", "CONTENT_LENGTH") and value:
                headers.add(key.replace("_", "-"), value)
        peer = environ.get("REMOTE_ADDR") or "0.0.0.0"  # noqa: S104 - as tornado.httpserver names it
        context = Context(peer, environ["wsgi.url_scheme"])
        identity = None
        if proxies.trusts(peer):
            context.remote_ip = proxies.client(headers) or peer
            context.protocol = proxies.scheme(headers) or context.protocol
            identity = proxies.request_id(headers)
        line = RequestStartLine(environ["REQUEST_METHOD"], _uri(environ), environ["SERVER_PROTOCOL"])
        return cls(
            line, headers, environ["wsgi.input"], _length(headers, environ), context, identity or secrets.token_hex(12)
        )


def _uri(environ: Mapping[str, Any]) -> str:
    """Return what the client asked for, as it wrote it if the server tells.

    WSGI has only the decoded path, in which ``%2F`` is a slash; gunicorn adds ``RAW_URI``, uWSGI and mod_wsgi
    ``REQUEST_URI``. That is not believed if a middleware has changed the path.
    """
    # PEP 3333, "Unicode Issues": these strings are bytes, written as latin-1.
    path = (environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")).encode("latin-1")
    raw: str = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if unquote_to_bytes(raw.partition("?")[0]) == path and raw:
        return raw
    query = environ.get("QUERY_STRING")
    return (quote(path) or "/") + (f"?{query}" if query else "")


def _length(headers: HTTPHeaders, environ: Mapping[str, Any]) -> float:
    if "Transfer-Encoding" in headers:
        # With a server that does not say so, to read to the end may be to read forever.
        if environ.get("wsgi.input_terminated"):
            return math.inf
        raise Refused(411, "Length Required", "This server needs a Content-Length.")
    text = headers.get("Content-Length", "0")
    if not text.isascii() or not text.isdigit():
        raise HTTPInputError(f"Only integer Content-Length is allowed: {text}")
    return int(text)
