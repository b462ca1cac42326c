"""What all handlers share: the state of this process, the headers, the cookies, the error page."""

import http
import os
import re
import socket
import traceback
from collections.abc import Awaitable
from typing import Any, ClassVar, TypedDict, cast

from tornado.web import HTTPError, RequestHandler

from board.passwords import Passwords
from board.settings import Settings
from board.store import Store

SESSION_DAYS = 7
SESSION_COOKIE = "board_session"

_SAFE_HOST = re.compile(r"[A-Za-z0-9.:\[\]_-]{1,255}")
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'; connect-src 'self'"
)
_EXPLAINED = {
    400: ("That made no sense", "The request could not be understood."),
    403: (
        "Not from here",
        "The request was not sent from a page of this board, or that page is too old. "
        "Go back, reload it and try again.",
    ),
    404: ("Nothing here", "There is no page at this address."),
    405: ("Not this way", "This address does not answer to that kind of request."),
    413: ("Too large", "What was sent is larger than this board accepts."),
    500: ("Rough weather", "Something went wrong on our side. It has been noted."),
    503: ("Busy", "Too much at once. Please try again in a moment."),
}


class PublicError(HTTPError):
    """An error whose message may be shown to whoever sent the request."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, "%s", message)
        self.message = message


class Answerer(TypedDict):
    """Which process this is."""

    host: str
    port: int | None
    pid: int
    release: str


class Board:
    """The state of one process. Nothing in it has to be shared: any process can answer any request."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.passwords = Passwords(settings.password_hash)
        self.store = Store(settings.data)
        self.host = socket.gethostname()
        self.served = 0


class Base(RequestHandler):
    """The base of every handler."""

    answers_json: ClassVar[bool] = False

    @property
    def board(self) -> Board:
        return cast(Board, self.settings["board"])

    def prepare(self) -> Awaitable[None] | None:
        self.board.served += 1
        return None

    def set_default_headers(self) -> None:
        policy = _POLICY
        # A page's 'self' covers its WebSocket in new browsers only; older ones want it named.
        if _SAFE_HOST.fullmatch(self.request.host):
            policy += f" ws://{self.request.host} wss://{self.request.host}"
        self.set_header("Content-Security-Policy", policy)
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Referrer-Policy", "same-origin")
        self.set_header("Cross-Origin-Opener-Policy", "same-origin")

    def set_cookie(self, *args: Any, **kwargs: Any) -> None:
        """Set a cookie that no script can read and that no other site can send along with a form."""
        kwargs.setdefault("httponly", True)
        kwargs.setdefault("samesite", "Lax")
        kwargs.setdefault("secure", self.request.protocol == "https")
        super().set_cookie(*args, **kwargs)

    def get_current_user(self) -> str | None:
        passwords = self.board.passwords
        cookie = self.get_signed_cookie(SESSION_COOKIE, max_age_days=SESSION_DAYS)
        if passwords.enabled and cookie == passwords.fingerprint.encode():
            return "operator"
        return None

    @property
    def request_id(self) -> str | None:
        """The id that a proxy in front has given to this request, if one has."""
        return self.request.headers.get("X-Request-Id", "")[:128] or None

    def answerer(self) -> Answerer:
        settings = self.board.settings
        return {
            "host": self.board.host,
            "port": settings.port or self._listening_port(),
            "pid": os.getpid(),
            "release": settings.release,
        }

    def _listening_port(self) -> int | None:
        stream = getattr(self.request.connection, "stream", None)
        if stream is None or stream.socket is None:
            return None
        name = stream.socket.getsockname()
        return int(name[1]) if isinstance(name, tuple) else None

    def get_template_namespace(self) -> dict[str, Any]:
        return super().get_template_namespace() | {
            "board_name": self.board.settings.name,
            "answerer": self.answerer(),
            "request_id": self.request_id,
        }

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        title, text = _EXPLAINED.get(status_code, (_phrase(status_code), "The request could not be answered."))
        if isinstance(error, PublicError):
            text = error.message
        # in debug mode (Application(debug=True)) the stack, as Tornado's own error page has it
        stack = ""
        if self.settings.get("serve_traceback") and error is not None:
            stack = "".join(traceback.format_exception(error))
        self.set_header("Cache-Control", "no-store")
        if self.answers_json:
            self.finish({"error": text, "status": status_code} | ({"traceback": stack.splitlines()} if stack else {}))
        else:
            self.render("error.html", status=status_code, title=title, text=text, stack=stack)


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return "Error"
