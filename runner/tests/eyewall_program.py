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
import sys
import threading
import time
from typing import Any

from eyewall_sample import make_app
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_sockets
from tornado.process import fork_processes
from tornado.tcpserver import TCPServer

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
    """One port, IPv4 and IPv6, two servers."""
    server = HTTPServer(make_app())
    server.listen(PORT, "127.0.0.1")
    server.listen(PORT, "::1")
    make_app().listen(PORT)
    run()


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
