"""Where the bytes of a connection go: a TCP socket that does nothing that it was not told to do.

TLS would be another class with these methods, around the same socket.
"""

import asyncio
import contextlib
import socket


class Transport:
    """One TCP connection to `host` and `port` at a time: opened when it is told to, used until one side closes it."""

    def __init__(self, host: str, port: int) -> None:
        self._at = (host, port)
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket: socket.socket | None = None
        self.authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def open(self) -> None:
        """Connect. Raises `OSError`."""
        self._socket = socket.socket(self._family, socket.SOCK_STREAM)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(self._socket, self._at)

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as this side knows.

        Asked before a request is sent, as browsers do (RFC 9112, section 9.5: a client should watch for a close): what
        was closed earlier has lost nothing.
        """
        if self._socket is None:
            return False
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # closed, or it says what nobody asked for

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def abort(self) -> None:
        """End it in both directions at once; whoever waits for it to say something is told that it is closed."""
        if self._socket is not None:
            with contextlib.suppress(OSError):  # the other side was faster
                self._socket.shutdown(socket.SHUT_RDWR)

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises `OSError`."""
        assert self._socket
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """Return what came, and nothing when the other side closed. Raises `OSError`.

        recv gives what arrived before a reset, and only then the reset: that is what "any byte of an answer" hangs on.
        """
        assert self._socket
        return await asyncio.get_running_loop().sock_recv(self._socket, 65536)
