"""What an answer says to whoever stands in front of the process: when it may be kept, passed on and followed by another."""

import datetime
import re
from typing import Any, cast

from tornado.httputil import HTTPHeaders, HTTPServerRequest
from tornado.web import Application, OutputTransform, StaticFileHandler

# What proxies compress, and so keep until they have enough of it; an event stream is none of it.
COMPRESSED = re.compile(r"text/(?!event-stream)|application/[^;]*(?:json|xml|javascript)")


class ForProxies(OutputTransform):
    """Say to a proxy what the bytes of an answer do not say.

    An answer that begins before the body of its request was read ends its connection (``HTTP1Connection.finish``). Unless that
    is announced, a proxy keeps the connection, and sends the next request where nobody reads it: 10 of 100 POSTs
    that were answered early got a 502 for that (nginx 1.22).

    What the application flushes is to arrive as it was flushed. nginx passes it on at once, but for what it compresses, which
    it does only without its buffer (``X-Accel-Buffering``, which it takes out).
    """

    __slots__ = ("_request",)

    def __init__(self, request: HTTPServerRequest) -> None:
        self._request = request

    def transform_first_chunk(
        self, status_code: int, headers: HTTPHeaders, chunk: bytes, finishing: bool
    ) -> tuple[int, HTTPHeaders, bytes]:
        if not getattr(self._request.connection, "_read_finished", True):
            headers["Connection"] = "close"
        if (
            not finishing
            and "Content-Length" not in headers
            and "X-Accel-Buffering" not in headers
            and COMPRESSED.match(headers.get("Content-Type", ""))
        ):
            headers["X-Accel-Buffering"] = "no"
        return status_code, headers, chunk


def for_proxies(application: Application) -> None:
    """Let every answer of `application` say it."""
    if ForProxies not in application.transforms:
        application.add_transform(ForProxies)


_cache_time = StaticFileHandler.get_cache_time
_version = cast(Any, StaticFileHandler.get_version).__func__


def _honest_cache_time(self: StaticFileHandler, path: str, modified: datetime.datetime | None, mime_type: str) -> int:
    seconds = _cache_time(self, path, modified, mime_type)
    if not seconds or cast(Any, type(self).get_version).__func__ is not _version:
        return seconds
    version = self._get_cached_version(cast(str, self.absolute_path))
    if version is not None and self.request.arguments["v"][0] == version.encode():
        return seconds
    self.set_header("Cache-Control", "no-cache")
    return 0


def keep_versions_honest() -> None:
    """Let a static file be kept for ten years only under the version that its bytes have.

    Tornado does so under any ``?v=``: in the middle of a deploy, the old bytes are kept under the new version, and the new ones
    under the old. A handler with versions of its own (``get_version``), or times of its own (``get_cache_time``), is left alone.
    """
    setattr(StaticFileHandler, "get_cache_time", _honest_cache_time)  # noqa: B010 - mypy wants no assignment to a method
