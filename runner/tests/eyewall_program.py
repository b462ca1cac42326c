"""Programs to run, as their authors write them: plain Tornado, they know nothing of eyewall.

The first argument says which one. Each asks for a port that nobody gives it, and writes to stderr what becomes
of it, so that a test can see in which order things happen.
"""

import asyncio
import atexit
import http.server
import os
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from eyewall_sample import make_app
from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPConnection, HTTPMessageDelegate
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets, bind_unix_socket
from tornado.process import fork_processes
from tornado.tcpserver import TCPServer
from tornado.web import Application, RequestHandler

PORT = 8888


def say(text: str) -> None:
    sys.stderr.write(f"program: {text}\n")
    sys.stderr.flush()


def run() -> None:
    try:
        IOLoop.current().start()
    finally:
        say("finally")


def listen() -> None:
    make_app().listen(PORT, xheaders=True)
    run()


def sockets() -> None:
    """As Flower and Bokeh do; Jupyter Server asks for sockets and closes them, to see if the port is free."""
    for probe in bind_sockets(PORT, "0.0.0.0"):  # noqa: S104
        probe.close()
    found = bind_sockets(PORT, "0.0.0.0")  # noqa: S104
    say(f"has {found[0].getsockname()}")
    HTTPServer(make_app()).add_sockets(found)
    run()


def own_sockets() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        HTTPServer(make_app()).add_socket(listener)
    run()


def impatient() -> None:
    HTTPServer(make_app(), idle_connection_timeout=1).listen(PORT)
    run()


def twice() -> None:
    """One port, IPv4 and IPv6, two servers of one application."""
    application = make_app()
    server = HTTPServer(application)
    server.listen(PORT, "127.0.0.1")
    server.listen(PORT, "::1")
    application.listen(PORT)
    run()


class Admin(RequestHandler):
    def get(self) -> None:
        self.write("for operators alone")


def with_admin(listen: Callable[[HTTPServer], object]) -> None:
    """An application for the public, and another one for operators."""
    make_app().listen(PORT)
    server = HTTPServer(Application([("/", Admin)]))
    listen(server)
    say(f"admin at {[one.getsockname() for one in server._sockets.values()]}")
    run()


def admin_on_unix() -> None:
    with_admin(lambda server: server.add_socket(bind_unix_socket("admin.own", mode=0o660)))


def admin_on_any_port() -> None:
    with_admin(lambda server: server.listen(0, "0.0.0.0"))  # noqa: S104


def admin_on_the_same_port() -> None:
    with_admin(lambda server: server.listen(PORT))


def admin_first() -> None:
    Application([("/", Admin)]).listen(0)
    listen()


class Counting(HTTPServer):
    """A class that a library derives, as many do."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        super().initialize(*args, **kwargs)
        self.began = 0

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        self.began += 1
        say(f"begins {self.began}")
        return super().start_request(server_conn, request_conn)


def subclass() -> None:
    assert isinstance(Counting(make_app()), HTTPServer)
    Counting(make_app(), max_body_size=1000).listen(PORT)
    run()


async def stop_and_make_again() -> None:
    """Stops its server and makes another, three times, of another application; the last one again on the same object."""
    server = make_app().listen(PORT)
    for _ in range(3):
        await asyncio.sleep(0.3)
        server.stop()
        await asyncio.sleep(0.1)
        say("is stopped")
        server = make_app().listen(PORT)
    server.stop()
    server.listen(PORT)
    say("is there")
    await asyncio.Event().wait()


def again() -> None:
    asyncio.run(stop_and_make_again())


def small_buffer() -> None:
    HTTPServer(
        make_app(), max_buffer_size=4096, max_body_size=10**6, xheaders=True, trusted_downstream=["192.0.2.7"]
    ).listen(PORT)
    run()


def tls() -> None:
    server = HTTPServer(make_app(), ssl_options=ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    server.listen(PORT)
    run()


async def serve_by_itself() -> None:
    """As uvicorn does."""
    server = await asyncio.start_server(lambda *_: None, "0.0.0.0", PORT)  # noqa: S104
    say("listens")
    await server.serve_forever()


def stranger() -> None:
    asyncio.run(serve_by_itself())


def stranger_in_a_thread() -> None:
    """As Prometheus' client does."""
    http.server.ThreadingHTTPServer(("0.0.0.0", PORT), http.server.SimpleHTTPRequestHandler)  # noqa: S104
    say("listens")
    listen()


def handler() -> None:
    """As Flower: a handler that exits, set before."""

    def stop(*_: object) -> None:
        say("own handler")
        sys.exit(3)

    signal.signal(signal.SIGTERM, stop)
    assert signal.getsignal(signal.SIGTERM) is stop
    atexit.register(say, "atexit")
    make_app().listen(PORT)
    run()


def loop_handler() -> None:
    """As Bokeh: a handler on the loop that stops it, set after."""

    def stop() -> None:
        say("own handler")
        IOLoop.current().stop()

    make_app().listen(PORT)
    asyncio.get_event_loop().add_signal_handler(signal.SIGTERM, stop)
    run()
    say("after the loop")


def handler_hangs() -> None:
    def hang(*_: object) -> None:
        say("own handler")
        time.sleep(60)

    signal.signal(signal.SIGTERM, hang)
    listen()


async def forever() -> None:
    make_app().listen(PORT)
    try:
        await asyncio.Event().wait()
    finally:
        say("finally")


def asyncio_run() -> None:
    asyncio.run(forever())


def waits_for_a_signal() -> None:
    """A loop in a thread, and a main thread that takes SIGTERM itself: no handler of Python's ever runs."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=lambda: asyncio.run(forever()), daemon=True).start()
    signal.sigwait({signal.SIGTERM})
    say("has its signal")


def run_sync() -> None:
    IOLoop.instance().run_sync(forever)


async def stops() -> None:
    """Ends by itself, while it serves."""
    make_app().listen(PORT)
    await asyncio.sleep(0.5)
    sys.exit(5)


def two_ports() -> None:
    make_app().listen(PORT)
    try:
        make_app().listen(PORT + 1)
    except Exception as error:
        say(f"goes on after {error}")
    run()


def tcp_server() -> None:
    TCPServer().add_sockets(bind_sockets(PORT))
    run()


def background() -> None:
    """As a daemon does: its parent leaves at once, and it goes on alone."""
    if os.fork():
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
    listen()


def background_and_exit() -> None:
    if os.fork():
        sys.exit(0)
    listen()


def no_server() -> None:
    pass


def other_server() -> None:
    http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler).serve_forever()


def raises() -> None:
    raise RuntimeError("no database here")


def tells() -> None:
    say(f"{__name__} {sys.argv[1:]} {sys.path[0]} {os.environ['PORT']}")


def start() -> None:
    """Tornado's old way to fork."""
    server: Any = HTTPServer(make_app())
    server.bind(PORT)
    server.start(2)
    run()


def fork() -> None:
    """Tornado's advised way to fork."""
    found = bind_sockets(PORT)
    fork_processes(2)
    HTTPServer(make_app()).add_sockets(found)
    run()


def fork_and_raise() -> None:
    fork_processes(2)
    raise RuntimeError("no database here")


def fork_and_listen_not() -> None:
    fork_processes(2)
    time.sleep(60)


def thread() -> None:
    """A loop that is not the main thread's."""
    thread = threading.Thread(target=lambda: asyncio.run(forever()), daemon=True)
    thread.start()
    thread.join()


def loop_before_fork() -> None:
    IOLoop.current()
    start()


if __name__ == "__main__":
    if sys.argv[1] == "stops":
        asyncio.run(stops())
    else:
        globals()[sys.argv[1]]()
