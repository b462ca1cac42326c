"""An application for the tests of `eyewall.wsgi`: plain Tornado."""

import asyncio
import logging
import os
import threading
from pathlib import Path
from typing import Any

import eyewall_sample
from tornado.web import Application, RequestHandler

log = logging.getLogger(__name__)


class Seen(RequestHandler):
    """Answers with what it sees of the request."""

    def get(self, *path: str) -> None:
        request = self.request
        self.write(
            {
                "path": path,
                "uri": request.uri,
                "url": request.full_url(),
                "ip": request.remote_ip,
                "host": request.host,
                "arguments": {name: self.get_arguments(name) for name in request.arguments},
                "files": {name: [len(file.body) for file in files] for name, files in request.files.items()},
                "cookie": self.get_cookie("one"),
            }
        )

    post = get


class Cookies(RequestHandler):
    def get(self) -> None:
        self.set_cookie("one", "1")
        self.set_cookie("two", "2")
        self.redirect("/seen")


class Piecewise(RequestHandler):
    """Writes a piece, and the next one when /next was asked for."""

    asked = asyncio.Event()

    async def get(self) -> None:
        self.asked.clear()
        self.write("first ")
        await self.flush()
        await self.asked.wait()
        await self.finish("second")


class Next(RequestHandler):
    def get(self) -> None:
        Piecewise.asked.set()


class Endless(RequestHandler):
    async def get(self) -> None:
        while True:
            self.write(b"x" * 65536)
            await self.flush()

    def on_connection_close(self) -> None:
        log.warning("the client has left")


class Never(RequestHandler):
    async def get(self) -> None:
        if self.get_argument("begin", ""):
            self.write("a beginning")
            await self.flush()
        await asyncio.Event().wait()


class Raises(RequestHandler):
    def get(self) -> None:
        raise RuntimeError("not today")


class Exits(RequestHandler):
    def get(self) -> None:
        raise SystemExit(1)


class Detach(RequestHandler):
    def get(self) -> None:
        self.detach()


class Status(RequestHandler):
    def get(self, status: str) -> None:
        self.set_status(int(status))
        self.set_header("Connection", "close")


class Wrong(RequestHandler):
    """Promises ten bytes."""

    def get(self) -> None:
        self.set_header("Content-Length", 10)
        self.write("nine")


class Where(RequestHandler):
    """Says which loop and process the factory and this request ran in, and what a background task does."""

    async def get(self) -> None:
        state = self.settings["state"]
        loop = asyncio.get_running_loop()
        thread = await loop.run_in_executor(None, threading.current_thread)
        async with state["lock"]:
            self.write(
                {
                    "same_loop": loop is state["loop"],
                    "same_process": os.getpid() == state["pid"],
                    "ticks": state["ticks"],
                    "executor": thread is not threading.current_thread(),
                }
            )


async def make_app(**settings: Any) -> Application:
    state: dict[str, Any] = {
        "loop": asyncio.get_running_loop(), "lock": asyncio.Lock(), "pid": os.getpid(), "ticks": 0,
    }  # fmt: skip

    async def tick() -> None:
        while True:
            state["ticks"] += 1
            await asyncio.sleep(0.01)

    state["task"] = asyncio.create_task(tick())
    handlers: list[Any] = [
        (r"/seen(?:/(.*))?", Seen),
        (r"/cookies", Cookies),
        (r"/piecewise", Piecewise),
        (r"/next", Next),
        (r"/endless", Endless),
        (r"/never", Never),
        (r"/raises", Raises),
        (r"/detach", Detach),
        (r"/exits", Exits),
        (r"/status/(\d+)", Status),
        (r"/wrong", Wrong),
        (r"/where", Where),
        (r"/slow", eyewall_sample.Slow),
        (r"/upload", eyewall_sample.Upload),
        (r"/echo", eyewall_sample.Echo),
    ]
    return Application(handlers, state=state, static_path=str(Path(__file__).parent), **settings)
