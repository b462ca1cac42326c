"""Each request over HTTP/2 has the fate that the server's frames say: processed, not processed, or lost."""

import asyncio
from collections.abc import Callable

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import RequestReceived
from hyperframe.frame import GoAwayFrame

from proof.http import Answer, ClosedBeforeAnswerError, LostError
from proof.http2 import Http2Connection, UnprocessedError

Act = Callable[["Server", int], None]  # what a server does when it has a request


class Server:
    """The other side, in memory: it does with each request what the next act says."""

    authority = "site.example"

    def __init__(self, *acts: Act) -> None:
        self.h2 = H2Connection(H2Configuration(client_side=False))
        self.acts = list(acts)
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    async def open(self) -> None:
        self.h2.initiate_connection()

    def close(self) -> None:
        self.queue.put_nowait(b"")

    async def send(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, RequestReceived):
                self.acts.pop(0)(self, event.stream_id or 0)
        self.flush()

    async def receive(self) -> bytes:
        return await self.queue.get()

    def flush(self) -> None:
        if data := self.h2.data_to_send():
            self.queue.put_nowait(data)

    def answer(self, stream: int) -> None:
        self.h2.send_headers(stream, [(":status", "200"), ("x-host", "app1")])
        self.h2.send_data(stream, b"calm", end_stream=True)

    def goaway(self, last: int) -> None:
        """Told by hand: h2 would refuse to answer afterwards, which a server does."""
        self.flush()
        self.queue.put_nowait(GoAwayFrame(0, last_stream_id=last).serialize())


def silent(_server: Server, _stream: int) -> None:
    """Nothing comes."""


def leaves_before(server: Server, _stream: int) -> None:
    server.goaway(0)


def leaves_after(server: Server, stream: int) -> None:
    server.goaway(stream)
    server.answer(stream)


def refuses(server: Server, stream: int) -> None:
    server.h2.reset_stream(stream, ErrorCodes.REFUSED_STREAM)


def breaks_off(server: Server, stream: int) -> None:
    server.h2.send_headers(stream, [(":status", "200"), ("x-host", "app1")])
    server.h2.reset_stream(stream, ErrorCodes.INTERNAL_ERROR)


def closes(server: Server, _stream: int) -> None:
    server.flush()
    server.close()


def asked(*acts: Act, method: str = "POST") -> tuple[Answer, bool]:
    """Ask as often as there are acts; the last answer, and whether the connection is to be left."""

    async def run() -> tuple[Answer, bool]:
        connection = Http2Connection(Server(*acts))
        await connection.open()
        try:
            async with asyncio.timeout(5):
                for _ in acts:
                    answer = await connection.ask(method, "/", b"body", {"Connection": "close"})
            return answer, connection.leaving
        finally:
            await connection.close()

    return asyncio.run(run())


def test_an_answer_is_an_answer() -> None:
    answer, leaving = asked(Server.answer, Server.answer)
    assert (answer.status, answer.body, answer.headers["x-host"], leaving) == (200, b"calm", "app1", False)


def test_what_goaway_says_was_processed_is_answered_on_the_same_connection() -> None:
    answer, leaving = asked(leaves_after)
    assert (answer.body, leaving) == (b"calm", True), "and the next request goes elsewhere"


@pytest.mark.parametrize("act", [leaves_before, refuses])
def test_what_was_not_processed_may_be_sent_again_whatever_its_method(act: Act) -> None:
    with pytest.raises(UnprocessedError):
        asked(act)


def test_an_answer_that_breaks_off_is_lost_and_names_its_host() -> None:
    with pytest.raises(LostError, match="INTERNAL_ERROR") as raised:
        asked(breaks_off)
    assert not isinstance(raised.value, UnprocessedError)
    assert raised.value.host == "app1"


def test_a_connection_that_ends_without_a_word_has_lost_its_first_request() -> None:
    with pytest.raises(LostError) as raised:
        asked(closes)
    assert not isinstance(raised.value, UnprocessedError | ClosedBeforeAnswerError)
    # one that had answered before is a kept connection that was closed: a GET may be repeated, and the caller decides
    with pytest.raises(ClosedBeforeAnswerError):
        asked(Server.answer, closes)


def test_a_request_that_takes_too_long_is_given_up_alone() -> None:
    async def run() -> Answer:
        connection = Http2Connection(Server(silent, Server.answer))
        await connection.open()
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await connection.ask("GET", "/", b"", {})
            return await connection.ask("GET", "/", b"", {})
        finally:
            await connection.close()

    assert asyncio.run(run()).body == b"calm"
