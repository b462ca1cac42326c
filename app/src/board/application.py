"""The application: what answers at which address."""

import os
from collections.abc import Mapping
from pathlib import Path

from tornado.web import Application

from board.base import Board
from board.live import LiveHandler
from board.pages import (
    IndexHandler,
    LoginHandler,
    LogoutHandler,
    NotFoundHandler,
    StaticHandler,
    WhoAmIHandler,
)
from board.settings import Settings
from board.uploads import DownloadHandler, UploadHandler

_HERE = Path(__file__).parent


def make_app(settings: Mapping[str, str] | None = None) -> Application:
    """Return the board, with settings from the environment unless others are given.

    A wrong setting raises a ValueError that says which one, and what is allowed.
    """
    board = Board(Settings.read(os.environ if settings is None else settings))
    static_path = str(_HERE / "static")
    return Application(
        [
            (r"/", IndexHandler),
            (r"/whoami", WhoAmIHandler),
            (r"/live", LiveHandler),
            (r"/login", LoginHandler),
            (r"/logout", LogoutHandler),
            (r"/upload", UploadHandler),
            (r"/files/([^/]+)", DownloadHandler, {"path": str(board.store.directory)}),
            # favicon.ico and robots.txt come with static_path; other files at the root are ours to name.
            (r"/(apple-touch-icon\.png)", StaticHandler, {"path": static_path}),
        ],
        default_handler_class=NotFoundHandler,
        static_handler_class=StaticHandler,
        static_path=static_path,
        template_path=str(_HERE / "templates"),
        login_url="/login",
        cookie_secret=board.settings.cookie_secret,
        xsrf_cookies=True,
        # A client that has vanished without a word is noticed within two of these.
        websocket_ping_interval=20,
        board=board,
    )
