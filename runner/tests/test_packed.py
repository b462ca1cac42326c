"""Headers that are packed are those that they were."""

import asyncio
import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from eyewall import server
from eyewall.head import knows_headers
from eyewall.packed import PackedHeaders, pack
from support.served import served
from support.waiting import until_async
from tornado.httputil import HTTPHeaders
from tornado.websocket import WebSocketHandler, websocket_connect

packs = pytest.mark.skipif(not knows_headers, reason="headers of this Tornado are not packed")

TEXT = 'Host: x\r\nX-One: a, b: c;"d"\r\nCookie: seen=1; theme=dark\r\nX-Two: \xe9\r\nX-Two: second\r\nX-Empty: \r\n'


@pytest.fixture
def headers() -> HTTPHeaders:
    made = HTTPHeaders.parse(TEXT)
    pack(made)
    assert type(made) is PackedHeaders
    return made


@packs
@pytest.mark.parametrize(
    "ask",
    [
        lambda headers: headers["X-One"],
        lambda headers: headers.get("x-two"),
        lambda headers: headers.get("X-Three", 3),
        lambda headers: "host" in headers,
        lambda headers: headers.get_list("X-Two"),
        lambda headers: list(headers.get_all()),
        list,
        len,
        str,
        dict,
        lambda headers: list(headers.items()),
        lambda headers: headers == HTTPHeaders.parse(TEXT),
        lambda headers: list(headers.copy().get_all()),
        lambda headers: list(copy.copy(headers).get_all()),
        lambda headers: list(copy.deepcopy(headers).get_all()),
        lambda headers: list(pickle.loads(pickle.dumps(headers)).get_all()),  # noqa: S301 - ours
        lambda headers: headers.pop("Cookie"),
        lambda headers: headers.setdefault("X-Three", "3"),
    ],
)
def test_whatever_is_asked_of_them(headers: HTTPHeaders, ask: Callable[[HTTPHeaders], Any]) -> None:
    plain = HTTPHeaders.parse(TEXT)
    assert ask(headers) == ask(plain)
    assert list(headers.get_all()) == list(plain.get_all())
    assert type(headers) is HTTPHeaders


@packs
def test_they_can_be_changed(headers: HTTPHeaders) -> None:
    headers.add("X-Two", "third")
    del headers["Cookie"]
    assert headers.get_list("X-Two") == ["\xe9", "second", "third"]
    assert "Cookie" not in headers
    pack(headers)
    assert headers.get_list("X-Two") == ["\xe9", "second", "third"]


@packs
def test_what_they_do_not_have_they_do_not_get(headers: HTTPHeaders) -> None:
    with pytest.raises(AttributeError):
        headers.nothing  # type: ignore[attr-defined] # noqa: B018
    assert headers["Host"] == "x"


@packs
def test_what_an_application_put_in_is_not_looked_at_again() -> None:
    headers = HTTPHeaders.parse(TEXT)
    headers["X-User"] = "\u0141ukasz"
    headers["X User"] = "no token"
    pack(headers)
    assert type(headers) is PackedHeaders
    assert headers["Host"] == "x"
    assert (headers["X-User"], headers["X User"]) == ("\u0141ukasz", "no token")


@packs
def test_a_name_that_would_be_read_otherwise_stays() -> None:
    headers = HTTPHeaders.parse(TEXT)
    headers._as_list["A:b"] = ["c"]
    pack(headers)
    assert type(headers) is HTTPHeaders


@packs
def test_threads_read_them_at_the_same_time() -> None:
    begin = threading.Barrier(3)

    def read() -> str | None:
        begin.wait()
        return headers.get("X-One")

    with ThreadPoolExecutor(3) as pool:
        for _ in range(500):
            headers = HTTPHeaders.parse(TEXT)
            pack(headers)
            assert {one.result() for one in [pool.submit(read) for _ in range(3)]} == {'a, b: c;"d"'}


@packs
@pytest.mark.parametrize("text", ["", "X-One: a\tb\r\n", "X-One: \xa0\r\n"], ids=ascii)
def test_what_would_not_be_the_same_again_stays(text: str) -> None:
    headers = HTTPHeaders.parse(text)
    pack(headers)
    assert type(headers) is HTTPHeaders
    assert headers == HTTPHeaders.parse(text)


def test_a_websocket_has_its_headers_later_too(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[WebSocketHandler] = []
    beneath: list[weakref.ref[Any]] = []

    class Talk(WebSocketHandler):
        def open(self) -> None:
            kept.append(self)
            beneath.append(weakref.ref(self.request.server_connection))

        def on_message(self, message: str | bytes) -> None:
            self.write_message(
                f"{message!s} {self.request.headers['Sec-WebSocket-Version']} {self.request.headers['Host']}"
            )

    async def talk() -> None:
        async with served([("/", Talk)]) as (_, port):
            client = await websocket_connect(f"ws://127.0.0.1:{port}/")
            await until_async(lambda: kept)
            await until_async(lambda: gc.collect() >= 0 and beneath[0]() is None)  # what was beneath it is not kept
            assert type(kept[0].request.headers) is (PackedHeaders if knows_headers else HTTPHeaders)
            connection = kept[0].request.connection
            assert connection.context.remote_ip == "127.0.0.1"
            assert connection.stream is None
            connection.context.note = "an application's own"
            kept[0].add_header("X-Late", "1")
            for _ in range(2):
                await client.write_message("hello")
                assert await client.read_message() == f"hello 13 127.0.0.1:{port}"
            client.close()

    monkeypatch.setattr(server, "SETTLE_SECONDS", 0.05)
    asyncio.run(asyncio.wait_for(talk(), 20))
