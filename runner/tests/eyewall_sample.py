"""An application to run: plain Tornado, knows nothing of eyewall."""

import asyncio
import ctypes
import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar

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


class Take(RequestHandler):
    """Opens all files that the process can have."""

    taken: ClassVar[list[int]] = []

    def get(self) -> None:
        try:
            while True:
                self.taken.append(os.dup(0))
        except OSError:
            self.write("taken")


class Give(RequestHandler):
    def get(self) -> None:
        while Take.taken:
            os.close(Take.taken.pop())
        self.write("given")


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


def open_files() -> dict[str, str]:
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the directory itself
            found[path.name] = str(path.readlink())
    return found


def what_i_have() -> dict[str, Any]:
    files = open_files()
    loops = [Path("/proc/self/fdinfo", number) for number, what in files.items() if what == "anon_inode:[eventpoll]"]
    watched = [line for path in loops for line in path.read_text().splitlines() if line.startswith("tfd:")]
    return {"pid": os.getpid(), "files": files, "watched": watched, "wakeup": signal.set_wakeup_fd(-1)}


class Pool(RequestHandler):
    """Lets a pool of one process work; answers with what that process has, and with what this one has."""

    pool: ProcessPoolExecutor | None = None

    async def get(self) -> None:
        Pool.pool = Pool.pool or ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
        child = await asyncio.get_running_loop().run_in_executor(Pool.pool, what_i_have)
        self.write({"pid": os.getpid(), "files": open_files(), "child": child})


class Begin(RequestHandler):
    """Begins a process by ?how=; answers with its pid."""

    async def get(self) -> None:
        how = self.get_argument("how")
        self.write({"pid": getattr(self, how)()})

    def executed(self) -> int:
        return subprocess.Popen(["sleep", "1000"], close_fds=False).pid

    def in_a_session(self) -> int:
        return subprocess.Popen(["sleep", "1001"], start_new_session=True).pid

    def stubborn(self) -> int:
        return subprocess.Popen(["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"]).pid

    def forked_in_c(self) -> int:
        libc = ctypes.PyDLL(None)
        pid: int = libc.fork()
        while pid == 0:
            libc.pause()
        return pid

    def daemon(self) -> int:
        """As daemons begin: the one between is gone at once."""
        end, begin = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if (pid := os.fork()) == 0:
                time.sleep(1000)
            os.write(begin, str(pid).encode())
            os._exit(0)
        os.wait()
        return int(os.read(end, 20))

    def exits(self) -> int:
        """It forgets to use os._exit."""
        pid = os.fork()
        if pid == 0:
            sys.exit(3)
        return pid

    def goes_on(self) -> int:
        """It forgets to end."""
        return os.fork()


class Terminate(RequestHandler):
    """Gives up on a process; says how that ended."""

    async def get(self) -> None:
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
        child.start()
        child.terminate()
        await asyncio.to_thread(child.join, 10)
        self.write({"exit": child.exitcode})


class Settings(RequestHandler):
    def get(self) -> None:
        names = ("autoreload", "compiled_template_cache", "static_hash_cache", "serve_traceback")
        self.write({name: self.application.settings.get(name) for name in names})


class Echo(WebSocketHandler):
    async def prepare(self) -> None:
        await asyncio.sleep(float(self.get_argument("seconds", "0")))

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message)


class Member(WebSocketHandler):
    there = 0

    def open(self) -> None:
        Member.there += 1

    def on_close(self) -> None:
        Member.there -= 1


class Members(RequestHandler):
    """Tell how many are there: the application knows of each that left."""

    def get(self) -> None:
        self.write({"there": Member.there})


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
        ("/pool", Pool),
        ("/begin", Begin),
        ("/terminate", Terminate),
        ("/echo", Echo),
        ("/member", Member),
        ("/members", Members),
    ]
    return Application(handlers, **settings)


def make_app_with_own_setting() -> Application:
    return make_app(autoreload=False, serve_traceback=False)


def make_hungry_app() -> Application:
    application = make_app()
    application.add_handlers(".*", [("/take", Take), ("/give", Give)])
    return application


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
