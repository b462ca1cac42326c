"""The application on bare Tornado, as its guide runs one ("Running and deploying"); started by servers.py.

For the release's own Python: Tornado and the application are there.
"""

import argparse
import asyncio
import gc
import importlib
import logging

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.process import fork_processes
from tornado.web import Application


def make_app(given: argparse.Namespace) -> Application:
    if given.static:
        return Application(static_path=given.static)
    module, _, factory = given.entry.partition(":")
    application = getattr(importlib.import_module(module), factory)()
    assert isinstance(application, Application)
    return application


async def listen(given: argparse.Namespace) -> None:
    app = make_app(given)
    if given.as_the_runner:
        # eyewall.process and eyewall.cli
        logging.getLogger("tornado.access").setLevel(logging.WARNING)
        gc.collect()
        gc.freeze()
    app.listen(given.port, "127.0.0.1", reuse_port=given.reuse_port, xheaders=given.xheaders)
    await asyncio.Event().wait()


def fork(given: argparse.Namespace) -> None:
    sockets = bind_sockets(given.port, "127.0.0.1")
    fork_processes(given.fork)

    async def after() -> None:
        HTTPServer(make_app(given)).add_sockets(sockets)
        await asyncio.Event().wait()

    asyncio.run(after())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("entry", help="factory of the application, as in board:make_app")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--static", help="serve this directory's files below /static/, and nothing else")
    parser.add_argument("--reuse-port", action="store_true")
    parser.add_argument("--xheaders", action="store_true", help="as the guide has it behind nginx")
    parser.add_argument("--fork", type=int, default=0, help="processes that share one socket")
    parser.add_argument("--as-the-runner", action="store_true", help="uvloop, no access log, frozen collector")
    given = parser.parse_args()
    if given.fork:
        fork(given)
    elif given.as_the_runner:
        import uvloop  # noqa: PLC0415 -- the guide has asyncio's own loop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(listen(given))
    else:
        asyncio.run(listen(given))


if __name__ == "__main__":
    main()
