"""Uploads: received as a stream, never held in memory, and streamed back."""

import time
from collections.abc import Awaitable
from typing import Any, ClassVar
from urllib.parse import quote

from tornado.http1connection import HTTP1Connection
from tornado.ioloop import IOLoop
from tornado.web import HTTPError, StaticFileHandler, authenticated, stream_request_body

from board.base import Base, PublicError
from board.store import Upload, safe_name

# Tornado hands over 64 KB at a time; a thread is worth its switch for more.
BATCH = 1024 * 1024


@stream_request_body
class UploadHandler(Base):
    """Takes a file as the raw body of a PUT or POST, with its name in the query: /upload?name=notes.txt .

    A request that is refused is still read to its end (within reason) before it is answered. To answer and
    close while the client is sending makes the kernel reset the connection, and then the client sees that
    instead of the answer.
    """

    SUPPORTED_METHODS = ("PUT", "POST")
    answers_json: ClassVar[bool] = True

    def initialize(self) -> None:
        self._started = time.monotonic()
        self._refusal: HTTPError | None = None
        self._upload: Upload | None = None
        self._batch = bytearray()
        self._received = 0
        self._complete = False

    def check_xsrf_cookie(self) -> None:
        """Remember a failure, for `prepare` to deal with like any other reason to refuse."""
        try:
            super().check_xsrf_cookie()
        except HTTPError as error:
            self._refusal = error

    def prepare(self) -> Awaitable[None] | None:
        super().prepare()
        limit = self.board.settings.max_upload
        length = self.request.headers.get("Content-Length", "")
        declared = int(length[:20]) if length.isascii() and length.isdigit() else 0
        most = max(2 * limit, BATCH)
        if isinstance(self.request.connection, HTTP1Connection):
            self.request.connection.set_max_body_size(most)
        if self._refusal is None and not self.current_user:
            self._refusal = PublicError(403, "Log in first: only then can files be uploaded.")
        if self._refusal is None and declared > limit:
            self._refuse_size()
        if self._refusal is None:
            try:
                self._upload = Upload(self.board.store, self.get_query_argument("name", "upload"))
            except OSError as error:
                self._refuse_storage(error)
        elif declared > most or self.request.headers.get("Expect", "").lower() == "100-continue":
            raise self._refusal
        return None

    async def data_received(self, chunk: bytes) -> None:
        self._received += len(chunk)
        if self._refusal is None and self._received > self.board.settings.max_upload:
            self._refuse_size()
            self._discard()
        if self._refusal is None:
            self._batch += chunk
            if len(self._batch) >= BATCH:
                await self._write_batch()

    async def put(self) -> None:
        self._complete = True
        if self._batch and self._refusal is None:
            await self._write_batch()
        upload = self._upload
        if self._refusal is None and upload is not None:
            try:
                await IOLoop.current().run_in_executor(None, upload.commit)
            except OSError as error:
                self._refuse_storage(error)
        if self._refusal is not None or upload is None:
            raise self._refusal or HTTPError(500)
        self.set_status(201)
        self.set_header("Location", f"/files/{quote(upload.name)}")
        self.set_header("Cache-Control", "no-store")
        await self.finish(
            {
                "name": upload.name,
                "size": upload.size,
                "sha256": upload.sha256,
                "seconds": round(time.monotonic() - self._started, 3),
            }
        )

    post = put

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if not self._complete:
            self._discard()

    def on_finish(self) -> None:
        self._discard()

    async def _write_batch(self) -> None:
        batch, self._batch = self._batch, bytearray()
        if self._upload is not None:
            try:
                await IOLoop.current().run_in_executor(None, self._upload.write, batch)
            except OSError as error:
                self._refuse_storage(error)

    def _refuse_size(self) -> None:
        limit = self.board.settings.max_upload
        self._refusal = PublicError(413, f"The file is too large: up to {limit:,} bytes are accepted.")

    def _refuse_storage(self, error: OSError) -> None:
        self._refusal = PublicError(507, f"The file could not be stored: {error.strerror}.")
        self._discard()

    def _discard(self) -> None:
        self._batch.clear()
        if self._upload is not None:
            self._upload.discard()


class DownloadHandler(Base, StaticFileHandler):
    """Streams an uploaded file to whoever is logged in, always as a download: nobody vouches for it."""

    @authenticated
    def prepare(self) -> Awaitable[None] | None:
        return super().prepare()

    async def get(self, path: str, include_body: bool = True) -> None:
        if safe_name(path) != path:
            raise HTTPError(404)
        await super().get(path, include_body)

    def compute_etag(self) -> str | None:
        """Name a version by time and size; Tornado would hash the whole file, and remember it forever."""
        if not self.absolute_path:
            return None
        stat = self._stat()
        return f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"'

    def get_cache_time(self, *args: Any) -> int:
        return 0

    def get_content_type(self) -> str:
        return "application/octet-stream"

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Cache-Control", "private, no-cache")
        self.set_header("Content-Disposition", f"attachment; filename*=UTF-8''{quote(path)}")
        self.set_header("Content-Security-Policy", "default-src 'none'; sandbox")
