"""What answers at which address."""

import asyncio
import hashlib
import multiprocessing
import os
import socket
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from html import escape
from pathlib import Path

from tornado.web import Application, ErrorHandler, RequestHandler, StaticFileHandler, stream_request_body
from tornado.websocket import WebSocketHandler

FAULTS = ("", "import", "start", "health", "dies")
EXIT_STATUS = 3
CHUNK_SECONDS = 0.1
FOOTHOLD = """
import socket, sys
with socket.socket() as listener:
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", int(sys.argv[1])))
    listener.listen()
    while True:
        with listener.accept()[0] as connection:
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 8\\r\\nConnection: close\\r\\n\\r\\nfoothold")
"""
PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>testapp {release}</title>
<link rel="stylesheet" href="{css}">
<script src="{js}" defer></script>
<h1>testapp {release}</h1>
<img src="{svg}" alt="A dial" width="400" height="400">
"""


class Base(RequestHandler):
    """Says who answers."""

    def who(self) -> dict[str, str]:
        return {
            "release": os.environ.get("RELEASE", ""),
            "pid": str(os.getpid()),
            "port": os.environ.get("PORT", ""),
            "host": socket.gethostname(),
        }

    def set_default_headers(self) -> None:
        for name, value in self.who().items():
            self.set_header(f"X-{name.title()}", value)


class Page(Base):
    """Names the static files, each with the version of its bytes."""

    def get(self) -> None:
        files = {kind: escape(self.static_url(f"testapp.{kind}")) for kind in ("css", "js", "svg")}
        self.write(PAGE.format(release=escape(self.who()["release"]), **files))


class Health(Base):
    def get(self) -> None:
        if self.settings["fault"] == "health":
            self.set_status(500)
            # as whatever writes for a terminal does, and a NUL, which no XML knows
            sys.stderr.write("\x1b]0;testapp\x07\x1b[1;31mTESTAPP_FAULT is 'health'\x1b[0m\x00\n")
            sys.stderr.flush()
        self.write("ok\n" if self.get_status() == 200 else "TESTAPP_FAULT is 'health'\n")


class Echo(Base):
    """GET /echo?text=… gives the text back, POST /echo says what arrived."""

    def get(self) -> None:
        self.write(self.who() | {"text": self.get_query_argument("text", "")})

    def post(self) -> None:
        body = self.request.body
        self.write(self.who() | {"length": len(body), "sha256": hashlib.sha256(body).hexdigest()})


class Headers(Base):
    """/headers: those of the request, as they arrived."""

    def get(self) -> None:
        self.write(self.who() | {"headers": dict(self.request.headers.get_all())})


class Slow(Echo):
    """/slow?seconds=2: the same, later."""

    async def prepare(self) -> None:
        await asyncio.sleep(float(self.get_query_argument("seconds", "2")))


class Hang(Echo):
    """Never answers."""

    async def prepare(self) -> None:
        await asyncio.Event().wait()


class Block(Base):
    """Blocks the whole process forever."""

    def post(self) -> None:
        while True:
            time.sleep(1)


class Pool(Base):
    """A pool of processes has worked."""

    pool: ProcessPoolExecutor | None = None

    async def get(self) -> None:
        Pool.pool = Pool.pool or ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
        self.write({"worker": await asyncio.get_running_loop().run_in_executor(Pool.pool, os.getpid)})


class Foothold(Base):
    """Does as somebody does who has broken in: nobody's child, without our environment, listens on our port."""

    def post(self) -> None:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve(sys.executable, [sys.executable, "-c", FOOTHOLD, os.environ["PORT"]], {})  # noqa: S606
            os._exit(0)
        os.wait()


@stream_request_body
class Upload(Base):
    """Counts a body while it arrives."""

    def prepare(self) -> None:
        self.length = 0
        self.sha256 = hashlib.sha256()

    def data_received(self, chunk: bytes) -> None:
        self.length += len(chunk)
        self.sha256.update(chunk)

    def put(self) -> None:
        self.write(self.who() | {"length": self.length, "sha256": self.sha256.hexdigest()})

    post = put


class Download(Base):
    """/download?bytes=100000&seconds=2: lines of eight bytes, numbered, so that none can be missed."""

    async def get(self) -> None:
        size = int(self.get_query_argument("bytes", "100000"))
        seconds = float(self.get_query_argument("seconds", "2"))
        content = b"".join(b"%07d\n" % number for number in range(size // 8 + 1))[:size]
        self.set_header("Content-Type", "text/plain")
        self.set_header("Content-Length", str(size))
        chunks = max(1, round(seconds / CHUNK_SECONDS))
        for number in range(chunks):
            self.write(content[size * number // chunks : size * (number + 1) // chunks])
            await self.flush()
            await asyncio.sleep(seconds / chunks)


class Live(Base, WebSocketHandler):
    """Gives every message back, and says who did."""

    def on_message(self, message: str | bytes) -> None:
        text = message if isinstance(message, str) else message.decode()
        self.write_message(self.who() | {"message": text})


class Static(Base, StaticFileHandler):
    pass


class NotFound(Base, ErrorHandler):
    pass


async def make_app() -> Application:
    """Return the application. Raises `ValueError` for a fault that there is not."""
    fault = os.environ.get("TESTAPP_FAULT", "")
    if fault not in FAULTS:
        raise ValueError(f"TESTAPP_FAULT: got {fault!r}; expected nothing, {', '.join(FAULTS[1:])}")
    if fault == "start":
        await asyncio.Event().wait()
    if fault == "dies":
        timer = threading.Timer(float(os.environ.get("TESTAPP_FAULT_AFTER", "1.5")), os._exit, (EXIT_STATUS,))
        timer.daemon = True
        timer.start()
    return Application(
        [
            (r"/", Page),
            (r"/health", Health),
            (r"/echo", Echo),
            (r"/headers", Headers),
            (r"/slow", Slow),
            (r"/hang", Hang),
            (r"/block", Block),
            (r"/pool", Pool),
            (r"/foothold", Foothold),
            (r"/upload", Upload),
            (r"/download", Download),
            (r"/live", Live),
        ],
        default_handler_class=NotFound,
        default_handler_args={"status_code": 404},
        static_handler_class=Static,
        static_path=str(Path(__file__).parent / "static"),
        fault=fault,
    )
