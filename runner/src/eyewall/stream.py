"""Tornado's connection, with less to do for each request, and an end that a client hears.

Tornado's own `IOStream` and its timeout for idle connections are a fifth of the CPU time of a small request (measured
with /hello, Tornado 6.6 on uvloop: `make bench ONLY=dynamic`). Nothing here changes what is sent or when it is read,
but that small packets are not held back.
"""

import asyncio
import contextlib
import socket
from collections.abc import Awaitable
from typing import Any

from tornado.iostream import IOStream

# IOStream fills the memory for a chunk with zeros before each read, and asks for 64 KB: for a head of some 500 bytes.
HEAD_CHUNK = 16384
# After an answer was sent, Tornado's core takes three turns of the loop until it asks for the next request.
TURNS = 4
LINGER = 5.0  # seconds


class Stream(IOStream):
    """Takes what `IOStream` takes, and `lingering`: where the task is while a closed one lingers.

    `unread` is to be set while a peer sends what may never be read. To close then resets the connection, and the peer,
    which is still sending, sees that instead of the answer. So such a connection is closed for writing first, and for
    reading when the peer has closed it too, or after `LINGER` seconds (RFC 9112, 9.6).
    """

    # IOStream has 27 attributes. With more than 30 in `__dict__`, CPython no longer shares their keys (SHARED_KEYS_MAX_SIZE in
    # Include/internal/pycore_dict.h), and each access is a lookup in a hash table: 2.5 % more instructions for /hello.
    __slots__ = ("_largest_chunk", "_lingering", "_turns", "unread")

    def __init__(self, *args: Any, lingering: set[asyncio.Task[None]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lingering = lingering
        self.unread = False
        self._largest_chunk = self.read_chunk_size
        self._turns = 0
        super().set_nodelay(True)

    def set_nodelay(self, value: bool) -> None:
        """Do nothing: TCP_NODELAY is on and stays on, as asyncio has it for its own transports.

        The core switches it on at the end of each answer and off again, which are two system calls.
        """

    def read_until_regex(self, regex: bytes, max_bytes: int | None = None) -> Awaitable[bytes]:
        """Read the head of a request."""
        # IOStream has seen to it that a chunk fits into max_buffer_size twice
        self.read_chunk_size = min(HEAD_CHUNK, self._largest_chunk)
        self._turns = TURNS
        return super().read_until_regex(regex, max_bytes)

    def read_bytes(self, num_bytes: int, partial: bool = False) -> Awaitable[bytes]:
        """Read of a body, or of a WebSocket's frame."""
        self.read_chunk_size = min(max(num_bytes, HEAD_CHUNK), self._largest_chunk)
        self._turns = 0
        return super().read_bytes(num_bytes, partial)

    def close_fd(self) -> None:
        """Close the connection, also where a child that C code forked has a copy of it."""
        if self.unread:
            connection, self.socket = self.socket, None  # type: ignore[assignment]
            linger(connection, asyncio.get_running_loop(), self._lingering)
            return
        with contextlib.suppress(OSError):  # its client has closed it already
            self.socket.shutdown(socket.SHUT_RDWR)
        super().close_fd()

    def _handle_read(self) -> None:
        """Leave what comes early in the socket for some turns.

        A busy client's next request comes before the core asks for it. IOStream buffers it and stops listening for more,
        so that the next read has to begin again: ten system calls on uvloop. If nobody asks in time, it does so here too.
        """
        if self._turns and not self.reading():
            self._turns -= 1
        else:
            super()._handle_read()


def linger(connection: socket.socket, loop: asyncio.AbstractEventLoop, lingering: set[asyncio.Task[None]]) -> None:
    """Close a connection for writing, and for reading when its peer has closed it too, or after `LINGER` seconds.

    The task that does it is in `lingering` meanwhile.
    """
    task = loop.create_task(_linger(connection))
    lingering.add(task)
    task.add_done_callback(lingering.discard)


async def _linger(connection: socket.socket) -> None:
    with connection, contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER):
                while await asyncio.get_running_loop().sock_recv(connection, HEAD_CHUNK):
                    pass
        connection.shutdown(socket.SHUT_RDWR)
