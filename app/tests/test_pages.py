import hashlib
import json
import os
import re
import socket
from typing import ClassVar
from unittest import mock

from board import base, pages
from support.board import BoardTestCase

STATIC = os.path.join(os.path.dirname(base.__file__), "static")  # noqa: PTH118, PTH120


def static_file(name: str) -> bytes:
    with open(os.path.join(STATIC, name), "rb") as file:  # noqa: PTH118, PTH123
        return file.read()


class IndexTest(BoardTestCase):
    extra: ClassVar = {"PORT": "8003", "BOARD_NAME": "Tuesday's <board>"}

    def test_says_who_answered(self) -> None:
        response = self.ask("/", headers={"X-Request-Id": "<req&42>"})
        page = response.body.decode()
        assert response.code == 200
        assert f'id="host">{socket.gethostname()}<' in page
        assert 'id="port">8003<' in page
        assert f'id="pid">{os.getpid()}<' in page
        assert 'id="release">1.2.3<' in page
        assert "<dd>127.0.0.1</dd>" in page
        assert "&lt;req&amp;42&gt;" in page
        assert "<title>Tuesday&#x27;s &lt;board&gt;</title>" in page

    def test_assets_carry_the_hash_of_their_bytes(self) -> None:
        page = self.ask("/").body.decode()
        urls = re.findall(r'(?:src|href)="(/static/[^"]+)"', page)
        assert {url.partition("?")[0] for url in urls} == {
            "/static/board.css",
            "/static/board.js",
            "/static/logo.svg",
        }
        for url in urls:
            response = self.ask(url)
            name, _, version = url.removeprefix("/static/").partition("?v=")
            assert version == hashlib.sha512(response.body).hexdigest()
            assert response.body == static_file(name)
            assert response.headers["Cache-Control"] == f"max-age={86400 * 365 * 10}"

    def test_loads_nothing_from_outside_and_runs_nothing_inline(self) -> None:
        page = self.ask("/").body.decode()
        assert "//" not in re.sub(r"<!--.*?-->", "", page).replace("http://www.w3.org", "")
        assert not re.search(r"\son\w+=|\sstyle=|<style|<script>", page)
        for name in ("board.css", "board.js", "logo.svg"):
            text = static_file(name).decode().replace("http://www.w3.org", "")
            assert not re.search(r"https?://|@import|url\(", text), name

    def test_security_headers(self) -> None:
        headers = self.ask("/", headers={"Host": "board.example:8080"}).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == "'self'"
        assert policy["connect-src"] == "'self' ws://board.example:8080 wss://board.example:8080"
        assert policy["frame-ancestors"] == "'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"

    def test_a_strange_host_does_not_reach_the_policy(self) -> None:
        policy = self.ask("/", headers={"Host": "x.example;script-src"}).headers["Content-Security-Policy"]
        assert "x.example" not in policy

    def test_a_visitor_gets_no_cookie_and_sees_no_files(self) -> None:
        self.data.joinpath("private.txt").write_text("x")
        response = self.ask("/")
        assert "Set-Cookie" not in response.headers
        assert b"private.txt" not in response.body
        assert response.headers["Cache-Control"] == "private, no-cache"


class WhoAmITest(BoardTestCase):
    def test_json(self) -> None:
        response = self.ask("/whoami", headers={"X-Request-Id": "abc"})
        assert json.loads(response.body) == {
            "host": socket.gethostname(),
            "port": self.get_http_port(),  # PORT is not set: the port of the socket it is
            "pid": os.getpid(),
            "release": "1.2.3",
            "remote_ip": "127.0.0.1",
            "scheme": "http",
            "request_id": "abc",
        }
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["Content-Type"].startswith("application/json")

    def test_a_client_may_not_say_who_it_is(self) -> None:
        response = self.ask("/whoami", headers={"X-Real-IP": "9.9.9.9", "X-Scheme": "https"})
        answer = json.loads(response.body)
        assert (answer["remote_ip"], answer["scheme"], answer["request_id"]) == ("127.0.0.1", "http", None)

    def test_head(self) -> None:
        for path in ("/", "/whoami"):
            response = self.ask(path, "HEAD")
            assert (response.code, response.body) == (200, b"")

    def test_get_only(self) -> None:
        response = self.post("/whoami")
        assert response.code == 405
        assert json.loads(response.body)["status"] == 405


class BehindProxyTest(BoardTestCase):
    """Whatever runs the board decides which proxy to believe; the board shows what it is told."""

    def get_httpserver_options(self) -> dict[str, bool]:
        return {"xheaders": True}

    def test_address_and_scheme(self) -> None:
        headers = {"X-Real-IP": "192.0.2.7", "X-Scheme": "https"}
        answer = json.loads(self.ask("/whoami", headers=headers).body)
        assert (answer["remote_ip"], answer["scheme"]) == ("192.0.2.7", "https")


class StaticTest(BoardTestCase):
    def test_root_files(self) -> None:
        for name, kind in (
            ("robots.txt", "text/plain"),
            ("favicon.ico", "image/"),
            ("apple-touch-icon.png", "image/png"),
        ):
            response = self.ask(f"/{name}")
            assert response.code == 200
            assert response.headers["Content-Type"].startswith(kind)
            assert response.body == static_file(name) == self.ask(f"/static/{name}").body
            assert "Cache-Control" not in response.headers

    def test_icons_are_what_they_say(self) -> None:
        png = static_file("apple-touch-icon.png")
        assert png[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (180, 180)
        ico = static_file("favicon.ico")
        assert ico[:4] == b"\0\0\1\0"
        assert [ico[6 + 16 * index] for index in range(ico[4])] == [16, 32, 48]

    def test_not_modified(self) -> None:
        etag = self.ask("/static/board.js").headers["Etag"]
        response = self.ask("/static/board.js", headers={"If-None-Match": etag})
        assert (response.code, response.body) == (304, b"")

    def test_a_version_that_never_was_is_answered_but_not_for_ever(self) -> None:
        response = self.ask("/static/board.js?v=0123456789abcdef")
        assert response.code == 200
        assert "Cache-Control" not in response.headers
        assert "Expires" not in response.headers

    def test_only_what_is_inside(self) -> None:
        for path in ("/static/../base.py", "/static/%2e%2e/base.py", "/static/none.css", "/static/"):
            response = self.ask(path)
            assert response.code in (403, 404), path
            assert b'class="card"' in response.body


class ErrorTest(BoardTestCase):
    def test_not_found(self) -> None:
        response = self.ask("/no/such/page", headers={"X-Request-Id": "id-for-support"})
        page = response.body.decode()
        assert response.code == 404
        assert "Nothing here" in page
        assert "id-for-support" in page
        assert "/static/board.css?v=" in page
        assert response.headers["Cache-Control"] == "no-store"
        assert "script-src 'self'" in response.headers["Content-Security-Policy"]

    def test_not_found_for_any_method(self) -> None:
        assert self.ask("/no/such/page", "POST", body="").code == 404
        assert self.ask("/no/such/page", "DELETE").code == 404

    def test_a_bug_shows_nothing_of_itself(self) -> None:
        def broken() -> None:
            raise RuntimeError("the secret is 42")

        self.get_app_board().store.files = broken
        self.log_in()
        response = self.ask("/")
        assert response.code == 500
        assert b"Rough weather" in response.body
        assert b"42" not in response.body.replace(b"Rough weather", b"").partition(b"<main")[2].partition(b"</main")[0]

    def test_in_debug_mode_a_bug_shows_its_stack(self) -> None:
        def broken() -> None:
            raise RuntimeError("<42>")

        self._app.settings["serve_traceback"] = True
        self.get_app_board().store.files = broken
        self.log_in()
        page = self.ask("/").body.decode()
        assert "Traceback (most recent call last):" in page
        assert "RuntimeError: &lt;42&gt;" in page
        with mock.patch.object(pages.WhoAmIHandler, "answerer", lambda _: broken()):
            answer = json.loads(self.ask("/whoami").body)
        assert answer["traceback"][0] == "Traceback (most recent call last):"
        assert answer["traceback"][-1] == "RuntimeError: <42>"

    def test_what_was_served_is_counted(self) -> None:
        before = self.get_app_board().served
        self.ask("/whoami")
        self.ask("/no/such/page")
        assert self.get_app_board().served == before + 2

    def get_app_board(self) -> base.Board:
        return self._app.settings["board"]
