"""The live view: one message a second over a WebSocket, and an answer to every ping."""

import json
import time
from collections.abc import Awaitable
from typing import Any

from tornado.ioloop import PeriodicCallback
from tornado.websocket import WebSocketClosedError, WebSocketHandler

from board.base import Answerer, Base

PERIOD_MS = 1000
MAX_MESSAGE = 1024


class LiveHandler(Base, WebSocketHandler):
    """Says who it is once a second.

    That is all it knows. That the process is about to leave, and that its clients had better come back
    elsewhere, is said by the close frame of whatever runs the application.
    """

    max_message_size = MAX_MESSAGE

    def initialize(self) -> None:
        self._ticker = PeriodicCallback(self._tick, PERIOD_MS)
        self._answerer: Answerer | None = None

    def set_default_headers(self) -> None:
        """Add nothing: there is no page here to protect."""

    def prepare(self) -> Awaitable[None] | None:
        # Now, because an upgraded connection no longer tells which port it came in on.
        self._answerer = self.answerer()
        return super().prepare()

    def open(self, *args: str, **kwargs: str) -> None:
        self.set_nodelay(True)
        self._tick()
        self._ticker.start()

    def on_message(self, message: str | bytes) -> None:
        try:
            ping = json.loads(message)["ping"]
        except (ValueError, KeyError, TypeError):
            ping = None
        if isinstance(ping, int | float):
            self._send({"pong": ping})
        else:
            self.close(1008, 'only {"ping": number} is understood')

    def on_close(self) -> None:
        self._ticker.stop()

    def _tick(self) -> None:
        if self._answerer is not None:
            self._send(self._answerer | {"time": round(time.time(), 3), "served": self.board.served})

    def _send(self, message: dict[str, Any]) -> None:
        try:
            self.write_message(message)
        except WebSocketClosedError:
            self._ticker.stop()
