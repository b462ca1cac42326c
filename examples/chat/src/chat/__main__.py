"""The chat: plain Tornado with a main() of its own. It knows nothing of what runs it."""

import asyncio
import json
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

from tornado.escape import json_decode
from tornado.options import define, options, parse_command_line
from tornado.web import Application, HTTPError, RequestHandler
from tornado.websocket import WebSocketClosedError, WebSocketHandler

define("port", default=8888, type=int, help="port to listen on")
define("poll", default=20.0, type=float, help="seconds after which a long poll is answered with nothing")

HERE = Path(__file__).parent
LONGEST = 500


class Room:
    """The last messages, and everybody who waits for the next one."""

    def __init__(self) -> None:
        self.messages: deque[dict[str, Any]] = deque(maxlen=100)
        self.sockets: set[Live] = set()
        self.news = asyncio.Event()
        self.last = 0

    def say(self, text: object) -> None:
        """Take a message and pass it on. Raises HTTPError 400 for one that is none."""
        if not isinstance(text, str) or not 0 < len(text.strip()) <= LONGEST:
            raise HTTPError(400, f"a message is a text of 1 to {LONGEST} characters")
        # Microseconds, so that the next process' numbers are higher than this one's: a client asks for what is after N.
        self.last = max(self.last + 1, time.time_ns() // 1000)
        message = {"id": self.last, "text": text.strip()}
        self.messages.append(message)
        self.news.set()
        self.news = asyncio.Event()
        for socket in list(self.sockets):
            socket.tell([message])

    def after(self, known: int) -> list[dict[str, Any]]:
        return [message for message in self.messages if message["id"] > known]


class Base(RequestHandler):
    @property
    def room(self) -> Room:
        room: Room = self.settings["room"]
        return room

    def known(self) -> int:
        """The number of the last message that the client has."""
        try:
            return int(self.get_query_argument("after", "0"))
        except ValueError:
            raise HTTPError(400, "after is the number of a message") from None


class Page(Base):
    def get(self) -> None:
        _ = self.xsrf_token  # sets the cookie that chat.js sends back as a header
        self.render("index.html")


class Messages(Base):
    """Long polling: GET waits for what is new, POST says something."""

    async def get(self) -> None:
        known, news = self.known(), self.room.news
        if not self.room.after(known):
            with suppress(TimeoutError):  # the client asks again
                await asyncio.wait_for(news.wait(), options.poll)
        self.write({"messages": self.room.after(known)})

    def post(self) -> None:
        try:
            text = json_decode(self.request.body)["text"]
        except (ValueError, KeyError, TypeError):
            raise HTTPError(400, "the body is no JSON object with a text") from None
        self.room.say(text)


class Live(WebSocketHandler, Base):
    """The same by WebSocket: each frame from the client is a message."""

    def open(self) -> None:
        self.room.sockets.add(self)
        self.tell(self.room.after(self.known()))

    def on_message(self, message: str | bytes) -> None:
        try:
            self.room.say(message)
        except HTTPError as error:
            self.close(1008, error.log_message)

    def on_close(self) -> None:
        self.room.sockets.discard(self)

    def tell(self, messages: list[dict[str, Any]]) -> None:
        with suppress(WebSocketClosedError):  # on_close is on its way; the others must hear it all the same
            self.write_message(json.dumps({"messages": messages}))


async def main() -> None:
    parse_command_line()
    app = Application(
        [(r"/", Page), (r"/messages", Messages), (r"/live", Live)],
        room=Room(),
        template_path=str(HERE),
        static_path=str(HERE / "static"),
        xsrf_cookies=True,
        websocket_ping_interval=30,
    )
    app.listen(options.port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
