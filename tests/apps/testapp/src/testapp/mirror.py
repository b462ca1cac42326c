"""An application that shows what reached it, and answers in the ways that a proxy could change."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

from tornado.web import Application, RequestHandler, stream_request_body

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND", "PURGE", "BREW")


class Mirror(RequestHandler):
    """Says what arrived: any method, any path."""

    SUPPORTED_METHODS = METHODS

    def show(self, *_: Any) -> None:
        request = self.request
        body = request.body
        self.write(
            {
                "method": request.method,
                "uri": request.uri,
                "version": request.version,
                "host": request.host,
                "headers": sorted([name, value] for name, value in request.headers.get_all()),
                "body": [len(body), hashlib.sha256(body).hexdigest()],
            }
        )

    def compute_etag(self) -> None:
        """None: what reached it is not the same behind a proxy."""

    get = head = post = put = delete = patch = options = propfind = purge = brew = show


class Cookies(RequestHandler):
    """/cookies?n=2&size=100: so many cookies of so many bytes."""

    def get(self) -> None:
        for number in range(int(self.get_argument("n"))):
            self.add_header("Set-Cookie", f"c{number}={'x' * int(self.get_argument('size'))}; Path=/")
        self.write("ok\n")

    head = get


class Status(RequestHandler):
    """/status/204: that status, with headers that a proxy may drop."""

    SUPPORTED_METHODS = METHODS

    def show(self, status: str) -> None:
        self.set_status(int(status))
        self.set_header("X-Mixed-CASE", "kept")
        self.set_header("ETag", '"one"')
        self.set_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.set_header("Cache-Control", "private, max-age=7")
        self.set_header("Location", "/elsewhere?x=1#y")
        self.set_header("Vary", "Cookie")
        self.set_header("WWW-Authenticate", 'Basic realm="mirror"')
        self.set_header("Content-Security-Policy", "default-src 'self'")
        if int(status) not in (204, 304):
            self.write(f"status {status}\n")

    get = head = post = put = delete = options = show


class Headers(RequestHandler):
    """Headers of an answer that mean something to proxies, or stand there twice."""

    def get(self) -> None:
        for name, value in (
            ("X-Twice", "one"), ("X-Twice", "two"), ("X_Under_Score", "under"), ("Link", "</a>; rel=preload"),
            ("X-Empty", ""), ("Via", "1.1 mirror"), ("Age", "5"), ("Expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ("X-Latin", "caf\xe9"), ("Content-Language", "en"), ("Content-Disposition", "attachment; filename=x"),
            ("Accept-Ranges", "bytes"), ("X-Request-Id", "mine"), ("X-Powered-By", "mirror"), ("Refresh", "5; url=/x"),
        ):  # fmt: skip
            self.add_header(name, value)
        self.write("ok\n")

    head = get


class Tags(RequestHandler):
    """Its text has an ETag of Tornado's, and is long enough to be compressed."""

    def get(self) -> None:
        self.set_header("Content-Type", self.get_argument("type", "text/plain"))
        self.write("a line that compresses well\n" * 100)

    head = get


class Accel(RequestHandler):
    """Answers with a header that nginx takes for an order."""

    def get(self) -> None:
        self.set_header(self.get_argument("name"), self.get_argument("value"))
        self.write("ok\n")


class Lines(RequestHandler):
    """/lines?type=application/json: five lines, each flushed when the one before has been seen (POST /seen)."""

    seen = asyncio.Event()

    async def get(self) -> None:
        self.set_header("Content-Type", self.get_argument("type"))
        Lines.seen.clear()
        for number in range(5):
            self.write(f'{{"line": {number}, "padding": "{"x" * int(self.get_argument("padding", "0"))}"}}\n')
            await self.flush()
            await Lines.seen.wait()
            Lines.seen.clear()


class Seen(RequestHandler):
    def post(self) -> None:
        Lines.seen.set()


class Forged(RequestHandler):
    """Counts those who came here, past a proxy that lets nobody; /forgeries has the number."""

    times = 0

    def get(self) -> None:
        Forged.times += 1
        self.write("forged\n")


class Forgeries(RequestHandler):
    def get(self) -> None:
        self.write({"times": Forged.times})


class Flushed(RequestHandler):
    """Flushes, with no length."""

    async def get(self) -> None:
        for number in range(3):
            self.write(f"part {number}\n")
            await self.flush()

    head = get


@stream_request_body
class Early(RequestHandler):
    """Answers before it has the body."""

    def prepare(self) -> None:
        self.set_status(403)
        self.finish("no\n")

    def data_received(self, chunk: bytes) -> None:
        pass

    def post(self) -> None:
        pass


class Slow(RequestHandler):
    async def get(self) -> None:
        await asyncio.sleep(float(self.get_argument("seconds")))
        self.write("late\n")


def make_app() -> Application:
    return Application(
        [
            (r"/cookies", Cookies),
            (r"/status/(\d+)", Status),
            (r"/headers", Headers),
            (r"/tags", Tags),
            (r"/accel", Accel),
            (r"/lines", Lines),
            (r"/seen", Seen),
            (r"/flushed", Flushed),
            (r"/forged", Forged),
            (r"/forgeries", Forgeries),
            (r"/early", Early),
            (r"/slow", Slow),
            (r"/empty", RequestHandler),
            (r".*", Mirror),
        ],
        static_path=str(Path(__file__).parent / "static"),
        static_url_prefix=os.environ.get("MIRROR_STATIC_PREFIX", "/static/"),
    )
