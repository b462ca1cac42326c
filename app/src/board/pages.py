"""The pages: the board itself, who answered as JSON, the login, static files, and what is not there."""

import asyncio
import logging
import re
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import ClassVar

from tornado.escape import url_escape
from tornado.web import HTTPError, StaticFileHandler

from board.base import SESSION_COOKIE, SESSION_DAYS, Base, PublicError
from board.passwords import BusyError
from board.store import KEEP

log = logging.getLogger("board")

FAILED_LOGIN_SECONDS = 0.5
# One leading slash. A second one, or a backslash, or what browsers drop between them, leads elsewhere.
_LOCAL_PATH = re.compile(r"/(?![/\\])[^\\\s\x00-\x20\x7f]*")


def local_path(target: str) -> str:
    """Return the target if it is a path on this site, else the front page."""
    return target if _LOCAL_PATH.fullmatch(target) else "/"


def human_size(size: float) -> str:
    for unit in ("bytes", "KB", "MB", "GB"):
        if size < 1024 or unit == "GB":
            break
        size /= 1024
    return f"{size:,.0f} {unit}" if unit == "bytes" or size >= 100 else f"{size:.1f} {unit}".replace(".0 ", " ")


class IndexHandler(Base):
    """The board."""

    def get(self) -> None:
        files = self.board.store.files() if self.current_user else []
        self.set_header("Cache-Control", "private, no-cache")
        self.set_header("Vary", "Cookie")
        self.render(
            "index.html",
            files=[
                {
                    "name": file.name,
                    "url": "/files/" + url_escape(file.name, plus=False),
                    "size": human_size(file.size),
                    "when": datetime.fromtimestamp(file.modified, UTC),
                }
                for file in files
            ],
            keep=KEEP,
            login_enabled=self.board.passwords.enabled,
            max_upload=self.board.settings.max_upload,
            max_upload_text=human_size(self.board.settings.max_upload),
        )

    head = get


class WhoAmIHandler(Base):
    """The same facts for programs."""

    answers_json: ClassVar[bool] = True

    def get(self) -> None:
        self.set_header("Cache-Control", "no-store")
        self.finish(
            self.answerer()
            | {
                "remote_ip": self.request.remote_ip,
                "scheme": self.request.protocol,
                "request_id": self.request_id,
            }
        )

    head = get


class LoginHandler(Base):
    """The login: one password, because the board has one role."""

    def get(self) -> None:
        target = local_path(self.get_argument("next", "/"))
        if self.current_user:
            self.redirect(target, status=303)
        else:
            self._show(target)

    async def post(self) -> None:
        target = local_path(self.get_argument("next", "/"))
        try:
            right = await self.board.passwords.matches(self.get_body_argument("password", "", strip=False))
        except BusyError:
            raise PublicError(503, "Many log-ins are being checked. Please try again in a moment.") from None
        if right:
            self.set_signed_cookie(SESSION_COOKIE, self.board.passwords.fingerprint, expires_days=SESSION_DAYS)
            self.redirect(target, status=303)
            return
        log.warning("failed login from %s (request %s)", self.request.remote_ip, self.request_id or "-")
        await asyncio.sleep(FAILED_LOGIN_SECONDS)
        self.set_status(403)
        self._show(target, failed=True)

    def _show(self, target: str, *, failed: bool = False) -> None:
        self.set_header("Cache-Control", "no-store")
        self.render("login.html", enabled=self.board.passwords.enabled, target=target, failed=failed)


class LogoutHandler(Base):
    """Ends the session in this browser."""

    def post(self) -> None:
        self.clear_cookie(SESSION_COOKIE)
        self.redirect("/", status=303)


class StaticHandler(Base, StaticFileHandler):
    """Tornado's static files, with one promise kept to the letter.

    Tornado lets `?v=` of any value be cached for ten years. In a rolling deploy that keeps old bytes under
    the address of new ones; here only the hash of the very bytes that are sent is good forever.
    """

    def get_cache_time(self, path: str, modified: datetime | None, mime_type: str) -> int:
        if self.get_query_argument("v", "") != self.get_version(self.settings, path):
            return 0
        return super().get_cache_time(path, modified, mime_type)


class NotFoundHandler(Base):
    """Every other address."""

    def check_xsrf_cookie(self) -> None:
        """Leave it to `prepare`: what is not there cannot be forged either."""

    def prepare(self) -> Awaitable[None] | None:
        super().prepare()
        raise HTTPError(404)
