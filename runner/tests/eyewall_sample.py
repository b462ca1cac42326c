"""An application to run: plain Tornado, knows nothing of eyewall."""

import asyncio
import json
import logging
import os
import time
from typing import Any

from tornado.process import task_id
from tornado.web import Application, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler

log = logging.getLogger("sample")


class Main(RequestHandler):
    def get(self) -> None:
        log.info("hello from %s", self.request.path)
        request = self.request
        self.write({"pid": os.getpid(), "ip": request.remote_ip, "protocol": request.protocol})

    def post(self) -> None:
        self.write({"pid": os.getpid(), "length": len(self.request.body)})


class Slow(RequestHandler):
    """Answers after ?seconds=."""

    async def get(self) -> None:
        log.info("slow begins")
        await asyncio.sleep(float(self.get_argument("seconds")))
        self.write({"pid": os.getpid()})

    post = get

    def on_connection_close(self) -> None:
        log.info("slow: the client has left")


class Thread(RequestHandler):
    """Keeps a thread busy for 4 s, and the interpreter waits for threads."""

    async def get(self) -> None:
        log.info("thread begins")
        await asyncio.get_running_loop().run_in_executor(None, time.sleep, 4)


class Download(RequestHandler):
    """Writes ?chunks= times 1000 bytes, every 0.1 s."""

    async def get(self) -> None:
        for _ in range(int(self.get_argument("chunks"))):
            self.write(b"x" * 1000)
            await self.flush()
            await asyncio.sleep(0.1)


@stream_request_body
class Upload(RequestHandler):
    def prepare(self) -> None:
        self.length = 0
        log.info("upload begins")

    def data_received(self, chunk: bytes) -> None:
        self.length += len(chunk)

    def put(self) -> None:
        self.write({"length": self.length})


class Say(RequestHandler):
    """Logs what it is sent."""

    def post(self) -> None:
        log.info("said: %s", self.request.body.decode())


class Block(RequestHandler):
    def get(self) -> None:
        time.sleep(60)


class Environment(RequestHandler):
    def get(self) -> None:
        self.write(json.dumps(dict(os.environ)))


class Settings(RequestHandler):
    def get(self) -> None:
        names = ("autoreload", "compiled_template_cache", "static_hash_cache", "serve_traceback")
        self.write({name: self.application.settings.get(name) for name in names})


class Echo(WebSocketHandler):
    async def prepare(self) -> None:
        await asyncio.sleep(float(self.get_argument("seconds", "0")))

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


def make_app(**settings: Any) -> Application:
    handlers = [
        ("/", Main),
        ("/slow", Slow),
        ("/thread", Thread),
        ("/download", Download),
        ("/upload", Upload),
        ("/say", Say),
        ("/block", Block),
        ("/environment", Environment),
        ("/settings", Settings),
        ("/echo", Echo),
    ]
    return Application(handlers, **settings)


def make_app_with_own_setting() -> Application:
    return make_app(autoreload=False, serve_traceback=False)


async def make_app_later() -> Application:
    await asyncio.sleep(0)
    return make_app()


def make_app_later_in_the_second() -> Application:
    if task_id() == 1:
        time.sleep(2)
    return make_app()


def raises() -> Application:
    raise RuntimeError("no database here")


def returns_nothing() -> None:
    pass


application = make_app()
number = 7
