"""Where the bytes of a connection go: a TCP socket that does nothing that it was not told to do, with TLS around it or not."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Sequence


class Transport:
    """One TCP connection to `host` and `port` at a time: opened when it is told to, used until one side closes it."""

    def __init__(self, host: str, port: int) -> None:
        # nobody is asked for the address of a name that is this machine's by its own rule (RFC 6761, section 6.3)
        self._at = ("127.0.0.1" if host.endswith(".localhost") else host, port)
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
        """Send all of it. Raises `OSError`, also after it was closed, as by who reads from it."""
        if self._socket is None:
            raise ConnectionResetError("closed before")
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    async def receive(self) -> bytes:
        """Return what came, and nothing when the other side closed. Raises `OSError`.

        recv gives what arrived before a reset, and only then the reset: that is what "any byte of an answer" hangs on.
        """
        assert self._socket
        return await asyncio.get_running_loop().sock_recv(self._socket, 65536)


class TLSTransport(Transport):
    """The same with TLS: the certificate has to be for `host`, and signed by what `context` trusts.

    asyncio's own TLS would decide by itself when to read and to close. Here the socket is the one above, and OpenSSL sees
    bytes alone.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext) -> None:
        super().__init__(host, port)
        self._host, self._context = host, context
        self._sending = asyncio.Lock()

    async def open(self) -> None:
        """Connect and shake hands. Raises `OSError`, of which `ssl.SSLError` is one."""
        await super().open()
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = self._context.wrap_bio(self._in, self._out, server_hostname=self._host)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                if not await self._more():
                    raise ConnectionResetError("closed in the handshake") from None
            else:
                await self._flush()
                return

    @property
    def usable(self) -> bool:
        """Whether it is open, as far as this side knows. What came meanwhile may be TLS' own, as a session to resume."""
        while self._socket is not None:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                try:
                    self._tls.read(1)
                except ssl.SSLWantReadError:
                    return True
                except OSError:
                    return False
                return False  # closed, or it says what nobody asked for
            except OSError:
                return False
            if not data:
                return False
            self._in.write(data)
        return False

    async def send(self, data: bytes) -> None:
        """Send all of it. Raises `OSError`."""
        self._tls.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        """Return what came, and nothing when the other side closed, with a close_notify or without. Raises `OSError`."""
        while True:
            try:
                return self._tls.read(65536)
            except ssl.SSLWantReadError:
                if not await self._more():
                    return b""
            except ssl.SSLZeroReturnError:
                return b""

    async def _more(self) -> bool:
        data = await super().receive()
        if data:
            self._in.write(data)
        return bool(data)

    async def _flush(self) -> None:
        async with self._sending:  # records must not be mixed up by two who send at once
            if data := self._out.read():
                await super().send(data)


def tls_context(ca: str, protocols: Sequence[str]) -> ssl.SSLContext:
    """Return a context that trusts the CA in this file and offers these protocols (ALPN)."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(list(protocols))
    return context
