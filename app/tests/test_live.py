import asyncio
import json
import os
import socket
from typing import Any

import pytest
from board import live
from support.board import BoardTestCase
from support.waiting import until_async
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.testing import gen_test
from tornado.websocket import WebSocketClientConnection, websocket_connect


class LiveTest(BoardTestCase):
    def url(self) -> str:
        return self.get_url("/live").replace("http", "ws", 1)

    async def connect(self) -> WebSocketClientConnection:
        return await websocket_connect(self.url())

    def watch_handlers(self) -> list[live.LiveHandler]:
        """Return a list that will hold the server's side of every connection."""
        handlers: list[live.LiveHandler] = []
        opened = live.LiveHandler.open

        def opening(handler: live.LiveHandler) -> None:
            handlers.append(handler)
            opened(handler)

        live.LiveHandler.open = opening
        self.addCleanup(setattr, live.LiveHandler, "open", opened)
        return handlers

    @staticmethod
    async def read(connection: WebSocketClientConnection) -> dict[str, Any]:
        message = await asyncio.wait_for(connection.read_message(), 5)
        assert message is not None
        return json.loads(message)

    @gen_test
    async def test_says_who_it_is_at_once_and_every_second(self) -> None:
        connection = await self.connect()
        first = await self.read(connection)
        assert first["host"] == socket.gethostname()
        assert first["port"] == self.get_http_port()
        assert first["pid"] == os.getpid()
        assert first["release"] == "1.2.3"
        assert first["served"] == 1
        second = await self.read(connection)
        assert 0.8 < second["time"] - first["time"] < 3
        connection.close()

    @gen_test
    async def test_answers_pings(self) -> None:
        connection = await self.connect()
        await self.read(connection)
        for number in (1, 2.5, 1e6):
            await connection.write_message(json.dumps({"ping": number}))
            assert await self.read(connection) == {"pong": number}
        connection.close()

    @gen_test
    async def test_closes_on_what_it_does_not_understand(self) -> None:
        for message in ("hello", "[]", "3", '{"ping": "x"}', '{"pong": 1}', "null"):
            connection = await self.connect()
            await self.read(connection)
            await connection.write_message(message)
            assert await asyncio.wait_for(connection.read_message(), 5) is None
            assert connection.close_code == 1008, message
            connection.close()

    @gen_test
    async def test_closes_on_a_message_that_is_too_long(self) -> None:
        connection = await self.connect()
        await self.read(connection)
        await connection.write_message("x" * (live.MAX_MESSAGE + 1))
        assert await asyncio.wait_for(connection.read_message(), 5) is None
        assert connection.close_code in (1006, 1009)
        connection.close()

    @gen_test
    async def test_other_sites_are_kept_out(self) -> None:
        request = HTTPRequest(self.url(), headers={"Origin": "http://evil.example"})
        with pytest.raises(HTTPClientError) as caught:
            await websocket_connect(request)
        assert caught.value.code == 403

    @gen_test
    async def test_stops_speaking_when_the_client_is_gone(self) -> None:
        handlers = self.watch_handlers()
        connection = await self.connect()
        await self.read(connection)
        assert handlers[0]._ticker.is_running()
        connection.close()
        await until_async(lambda: not handlers[0]._ticker.is_running())

    @gen_test
    async def test_a_close_from_whatever_runs_the_board_arrives(self) -> None:
        handlers = self.watch_handlers()
        connection = await self.connect()
        await self.read(connection)
        handlers[0].close(1012, "service restart")
        connection.close()
        handlers[0]._tick()  # a tick that comes after the close must not hurt
        assert await asyncio.wait_for(connection.read_message(), 5) is None
        assert (connection.close_code, connection.close_reason) == (1012, "service restart")
        connection.close()

    def test_a_plain_request_is_told(self) -> None:
        assert self.ask("/live").code == 400
