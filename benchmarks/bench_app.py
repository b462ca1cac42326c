"""The reference application with what a benchmark asks for beside its page; benchmarks/application.py adds this file to it."""

from collections.abc import Mapping

from board.application import make_app as make_board
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler


class HelloHandler(RequestHandler):
    """The least that a handler can do."""

    def get(self) -> None:
        self.write("hello, world\n")


class EchoHandler(WebSocketHandler):
    """Sends back what it is sent."""

    def check_origin(self, origin: str) -> bool:
        return True

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


def make_app(settings: Mapping[str, str] | None = None) -> Application:
    """Return the board with /hello and /echo."""
    application = make_board(settings)
    application.add_handlers(".*", [("/hello", HelloHandler), ("/echo", EchoHandler)])
    return application
