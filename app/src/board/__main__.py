"""`python -m board`: one process for a first look, as in Tornado's guide "Running and deploying"."""

import asyncio
import logging
import os
import secrets
import sys

from tornado.httpserver import HTTPServer
from tornado.options import define, options, parse_command_line

from board import make_app

log = logging.getLogger("board")


async def main() -> None:
    settings = dict(os.environ)
    if not settings.get("BOARD_COOKIE_SECRET"):
        log.warning("BOARD_COOKIE_SECRET is not set: made one that is forgotten when this process ends")
        settings["BOARD_COOKIE_SECRET"] = secrets.token_urlsafe(48)
    try:
        app = make_app(settings)
    except ValueError as error:
        sys.exit(str(error))
    server = HTTPServer(app)
    server.listen(options.port, address=options.address)
    log.info("the board is at http://%s:%d/", options.address, options.port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    define("port", default=8888, type=int, help="port to listen on")
    define("address", default="127.0.0.1", help="address to listen on")
    parse_command_line()
    try:
        asyncio.run(main())
    except KeyboardInterrupt:
        log.info("stopped")
