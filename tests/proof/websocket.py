"""A WebSocket of the client: wsproto does the framing, and the caller hears of every event."""

import contextlib

from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, Event, RejectConnection, Request, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from proof.http import NOT_HTTP, LostError, headers_of
from proof.transport import Transport


class WebSocketConnection:
    """One WebSocket on a `transport`, from its upgrade to its end."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._framing = WSConnection(ConnectionType.CLIENT)
        self._text = ""

    async def open(self, path: str) -> dict[str, str]:
        """Connect and upgrade; return the answer's headers. Raises `OSError`, `EOFError` or `LostError`."""
        await self._transport.open()
        await self._transport.send(self._framing.send(Request(host=self._transport.authority, target=path)))
        try:
            event = await self.receive()
        except RemoteProtocolError as error:
            raise LostError(f"{NOT_HTTP}: {error}") from None
        if isinstance(event, RejectConnection):
            raise LostError(f"status {event.status_code} instead of 101")
        assert isinstance(event, AcceptConnection)
        return headers_of(event.extra_headers)

    async def send(self, event: Event) -> None:
        """Send it, or not: why it cannot be sent, or may not any more, is what `receive` hears."""
        with contextlib.suppress(OSError, LocalProtocolError):
            await self._transport.send(self._framing.send(event))

    async def receive(self) -> Event:
        """Return the next event, a text when it is whole. Raises `OSError` or `EOFError` when cut."""
        while True:
            for event in self._framing.events():
                if not isinstance(event, TextMessage):
                    return event
                self._text += event.data
                if event.message_finished:
                    text, self._text = self._text, ""
                    return TextMessage(text)
            data = await self._transport.receive()
            if not data:
                raise EOFError("closed without a close frame")
            self._framing.receive_data(data)

    def close(self) -> None:
        self._transport.close()

    def abort(self) -> None:
        """End it at once; `receive` raises `EOFError`."""
        self._transport.abort()
