"""What an answer says to proxies: how long it may be kept, that it was flushed, that its connection ends."""

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from eyewall.answers import keep_versions_honest
from eyewall.server import HEAD, Server
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler, StaticFileHandler, stream_request_body

FILE = "a { color: red }\n"
VERSION = hashlib.sha512(FILE.encode()).hexdigest()


class Flushed(RequestHandler):
    async def get(self) -> None:
        self.set_header("Content-Type", self.get_argument("type"))
        if length := self.get_argument("length", None):
            self.set_header("Content-Length", length)
        if order := self.get_argument("order", None):
            self.set_header("X-Accel-Buffering", order)
        self.write("x")
        await self.flush()


class Whole(RequestHandler):
    def get(self) -> None:
        self.write({"whole": True})


@stream_request_body
class Early(RequestHandler):
    def prepare(self) -> None:
        if self.get_argument("early", None):
            self.finish("early\n")

    def data_received(self, chunk: bytes) -> None:
        pass

    def post(self) -> None:
        self.write("late\n")


class OwnVersions(StaticFileHandler):
    @classmethod
    def get_version(cls, settings: dict[str, Any], path: str) -> str:
        return "7"


class OwnTimes(StaticFileHandler):
    def get_cache_time(self, *_: Any) -> int:
        return 60


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., dict[str, str]]]:
    """Give a function that sends a request, and returns the headers of its answer."""
    monkeypatch.setattr(StaticFileHandler, "get_cache_time", StaticFileHandler.get_cache_time)
    keep_versions_honest()
    (tmp_path / "a.css").write_text(FILE)
    place = {"path": str(tmp_path)}

    def application() -> Application:
        return Application(
            [
                (r"/flushed", Flushed), (r"/whole", Whole), (r"/early", Early),
                (r"/elsewhere/(.*)", StaticFileHandler, place), (r"/own/(.*)", OwnVersions, place),
                (r"/times/(.*)", OwnTimes, place),
            ],
            static_path=str(tmp_path), static_url_prefix="/assets/",
        )  # fmt: skip

    async def answered(path: str, headers: str, body: bytes) -> dict[str, str]:
        listener, port = bind_unused_port()
        server = Server(application())
        server.open([listener])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        method = "POST" if body else "GET"
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode() + body)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        writer.close()
        server.stop()
        lines = head.decode().split("\r\n")
        return {"status": lines[0].split()[1], **dict(line.split(": ", 1) for line in lines[1:] if line)}

    yield lambda path, headers="", body=b"": asyncio.run(answered(path, headers, body))


@pytest.mark.parametrize("place", ["/assets", "/elsewhere"])
def test_a_static_file_is_kept_under_the_version_of_its_bytes_alone(
    ask: Callable[..., dict[str, str]], place: str
) -> None:
    assert ask(f"{place}/a.css?v={VERSION}")["Cache-Control"] == "max-age=315360000"
    for other in (VERSION[::-1], "1.4.2", VERSION.upper(), "", "%ff"):
        answer = ask(f"{place}/a.css?v={other}")
        assert answer["status"] == "200"
        # Tornado drops an argument without a value, and says nothing then
        assert answer["Cache-Control"] == "no-cache", other
        assert "Expires" not in answer
    assert "Cache-Control" not in ask(f"{place}/a.css")


def test_versions_and_times_of_an_application_are_its_own(ask: Callable[..., dict[str, str]]) -> None:
    assert ask("/own/a.css?v=7")["Cache-Control"] == "max-age=315360000"
    assert ask("/times/a.css?v=7")["Cache-Control"] == "max-age=60"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("/flushed?type=application/json", "no"),
        ("/flushed?type=text/plain", "no"),
        ("/flushed?type=image/svg%2Bxml", None),
        ("/flushed?type=text/event-stream", None),
        ("/flushed?type=application/octet-stream", None),
        ("/flushed?type=text/plain&length=1", None),
        ("/flushed?type=text/plain&order=yes", "yes"),
        ("/whole", None),
    ],
)
def test_what_is_flushed_and_would_be_compressed_is_not_buffered(
    ask: Callable[..., dict[str, str]], path: str, value: str | None
) -> None:
    assert ask(path).get("X-Accel-Buffering") == value


@pytest.mark.parametrize("headers", ["Content-Length: 300000\r\n", "Transfer-Encoding: chunked\r\n"])
def test_an_answer_before_the_body_says_that_its_connection_ends(
    ask: Callable[..., dict[str, str]], headers: str
) -> None:
    assert ask("/early?early=1", headers, b"5\r\nxxxxx\r\n")["Connection"] == "close"


def test_an_answer_after_the_body_keeps_its_connection(ask: Callable[..., dict[str, str]]) -> None:
    assert "Connection" not in ask("/early", "Content-Length: 5\r\n", b"xxxxx")


def test_a_head_may_be_larger_than_what_a_proxy_passes_on(ask: Callable[..., dict[str, str]]) -> None:
    assert ask("/whole", f"X-Long: {'x' * (HEAD - 1000)}\r\n")["status"] == "200"
