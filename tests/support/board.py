"""What the tests of the board share: settings, an application per test, and a client with cookies."""

import re
import tempfile
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlencode

from argon2 import PasswordHasher
from board import make_app, pages
from tornado.httpclient import HTTPResponse
from tornado.testing import AsyncHTTPTestCase
from tornado.web import Application

PASSWORD = "the calm eye of the storm"
# As weak as argon2 goes: these tests are about the board, not about how long a hash takes.
PASSWORD_HASH = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
SECRET = "a secret for tests, thirty-two characters or more"


class BoardTestCase(AsyncHTTPTestCase):
    """A board with a data directory of its own, and a client that keeps its cookies."""

    extra: ClassVar[dict[str, str]] = {}

    def setUp(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="board-test-")
        self.addCleanup(self._folder.cleanup)
        self.data = Path(self._folder.name) / "uploads"
        self.cookies: dict[str, str] = {}
        self.addCleanup(setattr, pages, "FAILED_LOGIN_SECONDS", pages.FAILED_LOGIN_SECONDS)
        pages.FAILED_LOGIN_SECONDS = 0.05
        super().setUp()

    def get_app(self) -> Application:
        return make_app(
            {
                "BOARD_COOKIE_SECRET": SECRET,
                "BOARD_PASSWORD_HASH": PASSWORD_HASH,
                "BOARD_DATA": str(self.data),
                "RELEASE": "1.2.3",
                **self.extra,
            }
        )

    def ask(self, path: str, method: str = "GET", **kwargs: Any) -> HTTPResponse:
        """Send a request with the cookies so far; keep those that come back. Redirects are not followed."""
        headers = dict(kwargs.pop("headers", {}))
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        kwargs.setdefault("follow_redirects", False)
        response = self.fetch(path, method=method, headers=headers, **kwargs)
        for line in response.headers.get_list("Set-Cookie"):
            for name, morsel in SimpleCookie(line).items():
                if morsel.value:
                    self.cookies[name] = morsel.coded_value
                else:
                    self.cookies.pop(name, None)
        return response

    def xsrf(self) -> str:
        page = self.ask("/login" if "board_session" not in self.cookies else "/").body.decode()
        found = re.search(r'name="_xsrf" value="([^"]+)"', page)
        assert found, page
        return found[1]

    def post(self, path: str, **fields: str) -> HTTPResponse:
        return self.ask(path, "POST", body=urlencode({"_xsrf": self.xsrf(), **fields}))

    def log_in(self) -> None:
        response = self.post("/login", password=PASSWORD)
        assert response.code == 303, response.body

    def on_disk(self) -> list[str]:
        return sorted(path.name for path in self.data.iterdir())
