import asyncio
import logging
import threading
import time
from http.cookies import SimpleCookie
from typing import ClassVar
from urllib.parse import urlencode

import pytest
from board import passwords
from board.pages import local_path
from support.board import PASSWORD, SECRET, BoardTestCase
from support.waiting import until_async
from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port, gen_test
from tornado.web import create_signed_value


@pytest.mark.parametrize(
    "target",
    [
        "//evil.example/",
        "///evil.example/",
        "/\\evil.example/",
        "\\\\evil.example/",
        "https://evil.example/",
        "javascript:alert(1)",
        "evil.example",
        "/\t/evil.example/",
        "/ok\r\nSet-Cookie: a=b",
        "/a\\b",
        "",
    ],
)
def test_next_leads_nowhere_else(target: str) -> None:
    assert local_path(target) == "/"


@pytest.mark.parametrize("target", ["/", "/files/a.txt", "/files/a%20b?x=1&y=//z", "/?a=b#c"])
def test_next_leads_to_a_path_here(target: str) -> None:
    assert local_path(target) == target


class LoginTest(BoardTestCase):
    @pytest.fixture(autouse=True)
    def _keep_the_log(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self.caplog = caplog

    def test_right_password(self) -> None:
        assert b'type="password"' in self.ask("/login").body
        response = self.post("/login", password=PASSWORD, next="/files/a.txt")
        assert response.code == 303
        assert response.headers["Location"] == "/files/a.txt"
        cookie = SimpleCookie(response.headers["Set-Cookie"])["board_session"]
        assert cookie["httponly"]
        assert cookie["samesite"] == "Lax"
        assert not cookie["secure"]
        page = self.ask("/").body
        assert b"Log out" in page
        assert b'id="upload"' in page

    def test_who_is_logged_in_is_sent_on(self) -> None:
        self.log_in()
        response = self.ask("/login?next=/files/a.txt")
        assert (response.code, response.headers["Location"]) == (303, "/files/a.txt")

    def test_open_redirect(self) -> None:
        page = self.ask("/login?next=" + "https%3A%2F%2Fevil.example%2F").body
        assert b"evil.example" not in page
        response = self.post("/login", password=PASSWORD, next="//evil.example/")
        assert (response.code, response.headers["Location"]) == (303, "/")

    def test_wrong_password(self) -> None:
        started = time.monotonic()
        response = self.post("/login", password="not the password")
        assert time.monotonic() - started >= 0.05
        assert response.code == 403
        assert b"That is not the password." in response.body
        assert "board_session" not in self.cookies
        warnings = [r.getMessage() for r in self.caplog.records if r.levelno == logging.WARNING]
        assert "failed login from 127.0.0.1 (request -)" in warnings
        assert "not the password" not in self.caplog.text

    def test_all_wrong_passwords_look_the_same(self) -> None:
        def message(body: bytes) -> bytes:
            return body.partition(b'role="alert">')[2].partition(b"<")[0]

        answers = [
            self.post("/login", **fields)
            for fields in ({}, {"password": ""}, {"password": PASSWORD + " "}, {"password": "x" * 5000})
        ]
        assert {answer.code for answer in answers} == {403}
        assert {message(answer.body) for answer in answers} == {b"That is not the password."}

    def test_xsrf(self) -> None:
        without = self.ask("/login", "POST", body=urlencode({"password": PASSWORD}))
        assert without.code == 403
        assert b"not sent from a page of this board" in without.body
        self.ask("/login")
        forged = self.ask("/login", "POST", body=urlencode({"password": PASSWORD, "_xsrf": "1234"}))
        assert forged.code == 403
        assert "board_session" not in self.cookies

    def test_every_process_knows_who_is_logged_in(self) -> None:
        self.log_in()
        listener, port = bind_unused_port()
        server = HTTPServer(self.get_app())
        server.add_socket(listener)
        page = self.ask(f"http://127.0.0.1:{port}/")
        server.stop()
        self.io_loop.run_sync(server.close_all_connections)
        assert b"Log out" in page.body

    def test_logout(self) -> None:
        self.log_in()
        assert self.ask("/logout", "POST", body="").code == 403  # not from a page of the board
        assert self.ask("/logout").code == 405
        response = self.post("/logout")
        assert (response.code, response.headers["Location"]) == (303, "/")
        assert "board_session" not in self.cookies
        assert b'href="/login"' in self.ask("/").body

    def test_a_cookie_has_to_be_signed_for_this_password(self) -> None:
        for value in (b"operator", b"", b"0123456789abcdef"):
            self.cookies["board_session"] = create_signed_value(SECRET, "board_session", value).decode()
            assert b'href="/login"' in self.ask("/").body
        other = passwords.Passwords("another hash").fingerprint
        self.cookies["board_session"] = create_signed_value(SECRET, "board_session", other).decode()
        assert b'href="/login"' in self.ask("/").body

    @gen_test
    async def test_the_loop_goes_on_while_a_password_is_checked(self) -> None:
        checker = self._app.settings["board"].passwords
        checker._verify = lambda _password: time.sleep(0.6) is None
        check = asyncio.ensure_future(checker.matches("anything"))
        await asyncio.sleep(0)
        response = await AsyncHTTPClient().fetch(self.get_url("/whoami"))
        assert response.code == 200
        assert not check.done()
        assert await check

    @gen_test
    async def test_a_flood_of_guesses_is_turned_away(self) -> None:
        checker = self._app.settings["board"].passwords
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        checker._verify = lambda _password: not go_on.wait(2)
        client = AsyncHTTPClient(force_instance=True, max_clients=60)
        page = await client.fetch(self.get_url("/login"))
        token = page.body.decode().partition('name="_xsrf" value="')[2].partition('"')[0]
        cookie = SimpleCookie(page.headers["Set-Cookie"])["_xsrf"].coded_value
        request = HTTPRequest(
            self.get_url("/login"),
            "POST",
            {"Cookie": f"_xsrf={cookie}"},
            urlencode({"_xsrf": token, "password": "guess"}),
        )
        guesses = [client.fetch(request, raise_error=False) for _ in range(40)]
        await until_async(lambda: sum(guess.done() for guess in guesses) == 24)
        go_on.set()
        codes = [(await guess).code for guess in guesses]
        client.close()
        assert (codes.count(403), codes.count(503)) == (16, 24)


class SecureLoginTest(BoardTestCase):
    def get_httpserver_options(self) -> dict[str, bool]:
        return {"xheaders": True}

    def test_cookies_are_secure_behind_https(self) -> None:
        headers = {"X-Scheme": "https"}
        page = self.ask("/login", headers=headers)
        xsrf = SimpleCookie(page.headers["Set-Cookie"])["_xsrf"]
        assert xsrf["secure"]
        token = page.body.decode().partition('name="_xsrf" value="')[2].partition('"')[0]
        body = urlencode({"_xsrf": token, "password": PASSWORD})
        response = self.ask("/login", "POST", body=body, headers=headers)
        assert SimpleCookie(response.headers["Set-Cookie"])["board_session"]["secure"]


class NoPasswordTest(BoardTestCase):
    extra: ClassVar = {"BOARD_PASSWORD_HASH": ""}

    def test_login_is_disabled_and_says_so(self) -> None:
        assert b"no password yet" in self.ask("/").body
        page = self.ask("/login")
        assert page.code == 200
        assert b"no password yet" in page.body
        assert b'type="password"' not in page.body

    def test_nobody_gets_in(self) -> None:
        empty = passwords.Passwords("").fingerprint
        self.cookies["board_session"] = create_signed_value(SECRET, "board_session", empty).decode()
        assert b"Log out" not in self.ask("/").body
        self.cookies.clear()
        self.cookies["_xsrf"] = "2|00000000|00000000000000000000000000000000|1"
        body = urlencode({"_xsrf": self.cookies["_xsrf"], "password": ""})
        assert self.ask("/login", "POST", body=body).code == 403
