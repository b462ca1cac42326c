"""Many WebSockets to one server on loopback, from few processes that cost little: each is an epoll loop.

For the host: Debian's Python and nothing else. A client here is a socket and five numbers: what a WebSocket costs is
to be measured on the server.
"""

import errno
import heapq
import multiprocessing
import os
import random
import resource
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Self

# RFC 6455: masked with zeros, for a client must mask, but not well
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
SERVICE_RESTART = 1012
JITTER = 0.2  # seconds before a client that was told 1012 comes back (docs/draining.md)
HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: ZXlld2FsbCBiZW5jaG1hcms=\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
MESSAGE = b"eyewall"
ADDRESSES = 4  # source addresses of a process, each of which has 28,232 ports to one address and port of a server
SPARE_FILES = 100  # of a process, for what is no WebSocket

_CONNECTING, _UPGRADING, _WAITING, _OPEN = range(4)


@dataclass(frozen=True)
class Target:
    port: int
    path: str
    in_flight: int  # of all clients: how many may wait for an answer at a time


@dataclass
class Counts:
    """What became of the clients; `codes` are those of close frames by number, `errors` sentences by number."""

    open: int = 0
    told: int = 0  # clients that had a close frame, each counted once
    codes: Counter[int] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    away: float = 0.0  # the longest time, in seconds, between a close frame and the echo on the next connection

    def __iadd__(self, other: Self) -> Self:
        self.open += other.open
        self.told += other.told
        self.codes += other.codes
        self.errors += other.errors
        self.away = max(self.away, other.away)
        return self


class _Client:
    __slots__ = ("left", "number", "rest", "socket", "state", "told", "tries")

    def __init__(self, number: int) -> None:
        self.number = number
        self.socket: socket.socket | None = None
        self.state = _CONNECTING
        self.rest = b""  # of a frame that has not arrived in whole
        self.tries = 0
        self.told = False
        self.left = 0.0  # when its close frame came; 0: it has echoed since


class _Process:
    """The clients of one process: a loop over their sockets and the pipe that says what to do."""

    def __init__(self, number: int, clients: int, target: Target, pipe: Connection) -> None:
        self.number = number
        self.target = target
        self.pipe = pipe
        self.clients = [_Client(index) for index in range(clients)]
        self.request = HANDSHAKE.format(path=target.path).encode()
        self.by_file: dict[int, _Client] = {}
        self.epoll = select.epoll()
        self.counts = Counts()
        self.busy = 0  # clients that wait for an answer
        self.due: list[tuple[float, int]] = []  # when which client connects
        self.to_echo: deque[_Client] = deque()
        self.done: Callable[[], bool] | None = None  # of the command that is under way
        self.ends = False

    def run(self) -> None:
        self.epoll.register(self.pipe.fileno(), select.EPOLLIN)
        while not self.ends:
            self._begin()
            pause = 0.2 if not self.due else min(0.2, max(0.0, self.due[0][0] - time.monotonic()))
            if self.busy >= self.target.in_flight:
                pause = 0.2
            for file, _ in self.epoll.poll(pause):
                client = self.by_file.get(file)
                if client is not None:
                    self._event(client)
                elif file == self.pipe.fileno():
                    self._command(self.pipe.recv())
            if self.done is not None and self.done():
                self.done = None
                self._report()

    def _report(self) -> None:
        self.counts.open = sum(client.state == _OPEN for client in self.clients)
        self.counts.told = sum(client.told for client in self.clients)
        self.pipe.send(self.counts)

    def _command(self, command: str) -> None:
        if command == "open":
            now = time.monotonic()
            self.due = [(now, client.number) for client in self.clients]
            self.done = self._settled
        elif command == "echo":
            self.to_echo.extend(client for client in self.clients if client.state == _OPEN)
            self.done = self._settled
        elif command == "counts":
            self._report()
        else:
            self.ends = True

    def _settled(self) -> bool:
        return not (self.busy or self.due or self.to_echo)

    def _begin(self) -> None:
        """Begin what is due, as far as the bound lets."""
        now = time.monotonic()
        while self.busy < self.target.in_flight and self.due and self.due[0][0] <= now:
            self._connect(self.clients[heapq.heappop(self.due)[1]])
        while self.busy < self.target.in_flight and self.to_echo:
            client = self.to_echo.popleft()
            if client.state == _OPEN:
                self._echo(client)

    def _connect(self, client: _Client) -> None:
        one = client.socket = socket.socket()
        self.busy += 1
        client.state = _CONNECTING
        client.rest = b""
        one.setblocking(False)
        # the port is chosen by connect(2) then, by the pair of addresses and not by ours alone (ip(7))
        one.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        address = 2 + self.number * ADDRESSES + client.number % ADDRESSES
        one.bind((f"127.0.0.{address}", 0))
        self.by_file[one.fileno()] = client
        self.epoll.register(one.fileno(), select.EPOLLOUT)
        error = one.connect_ex(("127.0.0.1", self.target.port))
        if error not in (0, errno.EINPROGRESS):
            self._gone(client, os.strerror(error))

    def _echo(self, client: _Client) -> None:
        client.state = _WAITING
        self.busy += 1
        self._send(client, TEXT, MESSAGE)

    def _send(self, client: _Client, opcode: int, payload: bytes) -> None:
        assert client.socket is not None
        try:
            client.socket.send(bytes((0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0)) + payload)
        except OSError as error:
            self._gone(client, str(error.strerror))

    def _event(self, client: _Client) -> None:
        one = client.socket
        assert one is not None
        try:
            if client.state == _CONNECTING:
                # without an error pending it is connected, else this raises it
                one.send(self.request)
                self.epoll.modify(one.fileno(), select.EPOLLIN)
                client.state = _UPGRADING
                return
            received = one.recv(4096)
        except OSError as error:
            self._gone(client, str(error.strerror))
            return
        client.rest += received
        if not received:
            self._gone(client, "closed without a close frame")
        elif client.state != _UPGRADING or self._upgraded(client):
            while client.socket is one and (frame := self._frame(client)):
                self._frame_came(client, *frame)

    def _upgraded(self, client: _Client) -> bool:
        """Echo once the answer to the handshake is there."""
        head, end, rest = client.rest.partition(b"\r\n\r\n")
        if end and head.startswith(b"HTTP/1.1 101 "):
            client.rest = rest
            self.busy -= 1
            self._echo(client)
            return True
        if end:
            self._gone(client, f"no WebSocket: {head[:12].decode(errors='replace')}")
        return False

    @staticmethod
    def _frame(client: _Client) -> tuple[int, bytes] | None:
        data = client.rest
        if len(data) < 2 or len(data) < 2 + data[1]:
            return None
        end = 2 + data[1]
        client.rest = data[end:]
        return data[0] & 15, data[2:end]

    def _frame_came(self, client: _Client, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self._send(client, PONG, payload)
        elif opcode == CLOSE:
            code = int.from_bytes(payload[:2], "big")
            self.counts.codes[code] += 1
            self._send(client, CLOSE, payload[:2])
            if client.socket is not None:
                self._gone(client, "" if code == SERVICE_RESTART else f"closed with {code}")
        elif opcode == TEXT and payload == MESSAGE and client.state == _WAITING:
            self.busy -= 1
            client.state = _OPEN
            client.tries = 0
            if client.left:
                self.counts.away = max(self.counts.away, time.monotonic() - client.left)
                client.left = 0.0
        else:
            self.counts.errors["a frame that nobody asked for"] += 1

    def _gone(self, client: _Client, error: str) -> None:
        """Close it, and come back as docs/draining.md says; `error` is "" after a close frame 1012."""
        assert client.socket is not None
        del self.by_file[client.socket.fileno()]
        client.socket.close()
        client.socket = None
        now = time.monotonic()
        if client.state != _OPEN:
            self.busy -= 1
        if error:
            self.counts.errors[error] += 1
        else:
            client.told = True
        client.state = _CONNECTING
        client.left = client.left or now
        polite = not error and client.tries == 0
        spread = random.random()  # noqa: S311 -- so that not all come back at once; nobody has to be kept from guessing it
        delay = JITTER * spread if polite else min(10, 0.4 * 2**client.tries) * (1 + spread) / 2
        client.tries += 1
        heapq.heappush(self.due, (now + delay, client.number))


def _run(number: int, clients: int, target: Target, pipe: Connection) -> None:
    _Process(number, clients, target, pipe).run()


class WebSockets:
    """`count` clients of 127.0.0.1; each command returns the `Counts` since the start."""

    def __init__(self, count: int, target: Target) -> None:
        """Start as many processes as the limit of open files asks for, at least two: sockets are not all they hold."""
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
        processes = max(2, -(-count // (limit - SPARE_FILES)))
        context = multiprocessing.get_context("fork")
        target = Target(target.port, target.path, max(1, target.in_flight // processes))
        self.pipes: list[Connection] = []
        self.processes = []
        for number in range(processes):
            share = (count + number) // processes
            ours, theirs = context.Pipe()
            process = context.Process(target=_run, args=(number, share, target, theirs), daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            pipe.send("end")
            process.join(10)
            if process.is_alive():
                process.kill()

    def open(self, seconds: float) -> Counts:
        """Connect them all; each echoes once. Also those that failed at first are waited for, `seconds` at most."""
        return self._do("open", seconds)

    def echo(self, seconds: float) -> Counts:
        """Let all that are open echo once, and those that are on their way back come."""
        return self._do("echo", seconds)

    def counts(self) -> Counts:
        return self._do("counts", 60)

    def _do(self, command: str, seconds: float) -> Counts:
        for pipe in self.pipes:
            pipe.send(command)
        deadline = time.monotonic() + seconds
        counts = Counts()
        missing = list(self.pipes)
        while missing:
            ready = wait(missing, max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"{command}: the WebSockets did not do it within {seconds:g} s")
            for pipe in [pipe for pipe in missing if pipe in ready]:
                counts += pipe.recv()
                missing.remove(pipe)
        return counts
