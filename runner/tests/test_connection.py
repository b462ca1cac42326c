"""The runner's core beside Tornado's: the same bytes give the same answers, the same calls of the application, the same end."""

import asyncio
import contextlib
import gzip
import itertools
import logging
import random
import re
import socket
import struct
import tempfile
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import tornado
import uvloop
from eyewall import server as server_module
from eyewall.answers import for_proxies
from eyewall.bodies import Limits
from eyewall.context import request_id
from eyewall.crowd import Crowd
from eyewall.server import Server
from eyewall_differences import DIFFERENCES
from support.ambiguous import AMBIGUOUS, FORGED, FRAMED
from support.served import read_json, served
from support.waiting import until_async
from tornado.httpserver import HTTPServer
from tornado.iostream import StreamClosedError
from tornado.netutil import bind_unix_socket
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler

# Before, a malformed chunk or gzip body was an exception in the log instead of 400, and each chunk was given to the application.
as_tornado_6_6 = pytest.mark.skipif(tornado.version_info < (6, 6), reason="the core does as Tornado 6.6 does")

MOST = 3000  # bytes of a body and of a head
OPTIONS = {"max_body_size": MOST, "max_header_size": MOST, "chunk_size": 700}
# Whatever a server waits for after a conversation, this is more of it, and no request: each connection ends.
END = b"x" * 2 * MOST + b"\r\n\r\n"


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


class Seen(RequestHandler):
    """Tells, and notes, what it saw."""

    def initialize(self, seen: list[object]) -> None:
        self.seen = seen

    def note(self, *what: object) -> None:
        self.seen.append((self.request.method, self.request.uri, *what))

    def on_connection_close(self) -> None:
        self.note("left")

    def on_finish(self) -> None:
        self.note("finished", self.get_status())


class Whole(Seen):
    SUPPORTED_METHODS = (*RequestHandler.SUPPORTED_METHODS, "M-SEARCH")  # type: ignore[assignment]

    async def get(self) -> None:
        request = self.request
        self.note(request.version, list(request.headers.get_all()), request.body)
        for _ in range(int(self.get_query_argument("turns", "0")[:1])):
            await asyncio.sleep(0)
        self.write({"body": len(request.body), "path": request.path})

    post = put = patch = delete = options = head = m_search = get  # type: ignore[assignment]


class Flushes(Seen):
    async def get(self) -> None:
        for number in range(3):
            self.write(f"{number} " * number * 50)
            await self.flush()

    post = get


class Raises(Seen):
    def get(self) -> None:
        self.write("nobody sees this")
        raise RuntimeError

    post = get


@stream_request_body
class Streams(Seen):
    async def prepare(self) -> None:
        self.data = bytearray()
        if self.get_query_argument("wait", ""):
            await asyncio.sleep(0)
        self.note("prepared")
        if self.get_query_argument("early", ""):
            self.finish("early")

    def data_received(self, chunk: bytes) -> Any:
        self.data += chunk
        return asyncio.sleep(0) if self.get_query_argument("wait", "") else None

    def get(self) -> None:
        self.note(bytes(self.data))
        self.write({"data": len(self.data)})

    put = post = get


class Echo(WebSocketHandler):
    def initialize(self, seen: list[object]) -> None:
        self.seen = seen

    def on_message(self, message: str | bytes) -> None:
        self.seen.append(message)
        self.write_message(message)


def application(seen: list[object]) -> Application:
    handlers: list[tuple[str, type]] = [
        ("/", Whole), ("/flushes", Flushes), ("/raises", Raises), ("/streams", Streams), ("/echo", Echo), ("/forged", Whole),
    ]  # fmt: skip
    made = Application([(path, handler, {"seen": seen}) for path, handler in handlers], log_function=lambda _: None)
    for_proxies(made)
    return made


class Sides:
    """Bare Tornado and the runner's server, both with the same application."""

    def __init__(self, **options: Any) -> None:
        self.seen: tuple[list[object], list[object]] = [], []
        bare = HTTPServer(application(self.seen[0]), **OPTIONS, **options)
        self.server = Server(application(self.seen[1]), limits=Limits(0, 0), **OPTIONS, **options)
        self.servers = bare, self.server
        # Unix sockets: one of TCP that is closed while its peer still sends may take the last answer with it.
        self.directory = tempfile.TemporaryDirectory()
        self.paths = [f"{self.directory.name}/{number}" for number in range(2)]
        for server, path in zip(self.servers, self.paths, strict=True):
            server.add_socket(bind_unix_socket(path))

    async def ask(self, side: int, pieces: list[bytes], turns: int = 3) -> tuple[bytes, list[object]]:
        """Send a piece every few `turns` of the loop.

        Return all that was answered until the connection ended, and what the application saw.
        """
        loop = asyncio.get_running_loop()
        self.seen[side].clear()
        answer = b""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            await loop.sock_connect(connection, self.paths[side])
            with contextlib.suppress(ConnectionError):
                for piece in pieces:
                    await loop.sock_sendall(connection, piece)
                    for _ in range(turns):
                        await asyncio.sleep(0)
            with contextlib.suppress(ConnectionError):
                while data := await asyncio.wait_for(loop.sock_recv(connection, 65536), 20):
                    answer += data
        for _ in range(20):
            await asyncio.sleep(0)
        return re.sub(rb"\r\nDate: [^\r]*", b"", answer), list(self.seen[side])

    async def compare(self, pieces: list[bytes]) -> tuple[bytes, list[object]]:
        bare, own = await self.ask(0, pieces), await self.ask(1, pieces)
        # What Tornado answers to what it refuses may depend on how much of it was there when it looked, and the runner's server
        # looks earlier. To pieces that come later, Tornado has to answer the same.
        for turns in (10, 100):
            if own[0] == bare[0]:
                break
            bare = await self.ask(0, pieces, turns)
        assert own[0] == bare[0], pieces
        # Tornado runs a request that it has read with one before it whose answer has ended the connection, and nobody gets the
        # answer. Such a request is not run here (RFC 9112, 9.6).
        assert own[1] == bare[1][: len(own[1])], pieces
        return own

    async def stop(self) -> None:
        for server in self.servers:
            server.stop()
            self.directory.cleanup()
            await server.close_all_connections()
        assert self.server.connections == 0
        assert self.server.counters.in_flight == 0
        assert not self.server.bodies


def run(main: Any, loop: str) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop if loop == "uvloop" else asyncio.new_event_loop) as runner:
        runner.run(main)


class Generator:
    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - no secret

    def pick(self, usual: list[bytes], odd: list[bytes], wild: float) -> bytes:
        return self.random.choice(odd if self.random.random() < wild else usual)

    def bodies(self, wild: float) -> tuple[list[bytes], bytes]:
        """Return the headers of a body, and it."""
        body = self.random.randbytes(self.random.choice([0, 1, 5, 699, 700, 701, 1500, 2900]))
        if self.random.random() < 0.2:
            body = gzip.compress(body * self.random.choice([1, 1, 8]))
        kind = self.random.random()
        if kind < 0.4:
            return [], b""
        if kind < 0.7:
            length = b"%d" % len(body)
            odd = [
                length + b", " + length, length + b",6", b"+" + length, b"-1", b"", length + b" ", b"0x5", b"1e3", b"99999",
                length + b"\r\nContent-Length: " + length, length + b"\r\nTransfer-Encoding: chunked", b"0" + length,
            ]  # fmt: skip
            return [b"Content-Length: " + self.pick([length], odd, wild)], body
        coding = self.pick(
            [b"chunked"], [b"CHUNKED", b"gzip, chunked", b"identity", b" chunked ", b"chunked, chunked", b""], wild
        )
        chunks = b""
        while body:
            size = self.random.randrange(1, len(body) + 1) if self.random.random() < 0.8 else 1
            odd = [b"%x;a=b", b" %x", b"%x ", b"+%x", b"0x%x", b"-%x", b"%x\n", b"%x" + b"0" * 70, b"%x\x00"]
            line = self.pick([b"%x", b"%X", b"00%x"], odd, wild / 3) % size
            end = self.pick([b"\r\n"], [b"\n", b"", b"\r\r", b"xx"], wild / 3)
            chunks += line + b"\r\n" + body[:size] + end
            body = body[size:]
            if len(chunks) > 2 * MOST:
                break
        return [b"Transfer-Encoding: " + coding], chunks + self.pick(
            [b"0\r\n\r\n"], [b"0\r\nX: y\r\n\r\n", b"0\n\n", b"0\r\nxx"], wild
        )

    def request(self, wild: float) -> bytes:
        pick = self.pick
        methods = [b"GET", b"POST", b"PUT", b"HEAD", b"GET", b"POST"]
        paths = [
            b"/", b"/?turns=2", b"/?turns=7", b"/streams", b"/streams?wait=1", b"/flushes", b"/raises", b"/missing",
            b"/streams?early=1",
        ]  # fmt: skip
        line = b" ".join(
            (
                pick(methods, [b"M-SEARCH", b"get", b"FOO", b"G(T", b"", b"DELETE", b"OPTIONS"], wild),
                pick(paths, [b"*", b"http://x/", b"/\xff", b"/%00", b"//", b"/a b", b"", b"/?a=%ff;b"], wild),
                pick(
                    [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0"],
                    [b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b""],
                    wild,
                ),
            )
        )
        headers, body = self.bodies(wild)
        headers.append(pick([b"Host: x"], [b"Host: a b", b"Host: x\r\nHost: y", b"", b"host:x"], wild))
        if self.random.random() < 0.4:
            headers.append(
                b"Connection: "
                + pick([b"keep-alive", b"close", b"Keep-Alive"], [b"CLOSE", b"close, x", b"upgrade"], wild)
            )
        if self.random.random() < 0.1:
            headers.append(b"Expect: " + pick([b"100-continue"], [b"100-Continue", b"x"], wild))
        if self.random.random() < 0.1:
            headers.append(b"Upgrade: " + self.random.choice([b"websocket", b"h2c"]))
        if self.random.random() < 0.15:
            headers.append(b"Content-Encoding: " + pick([b"gzip"], [b"GZIP", b"br"], wild))
        if self.random.random() < wild:
            headers.append(
                self.random.choice(
                    [b"no colon", b" folded: x", b"X : y", b"X:\x00", b"X: \x7f", b"\xe4: x", b"X: " + b"y" * MOST]
                )
            )
        self.random.shuffle(headers)
        end = pick([b"\r\n"], [b"\n"], wild / 2)
        lead = pick([b""], [b"\r\n", b"\n", b"\r\n\r\n", b" "], wild / 3)
        return lead + end.join([line, *headers, b""]) + pick([end], [b"\r\n", b"\n", b""], wild / 3) + body

    def conversation(self) -> list[bytes]:
        """Return some requests, one after the other, cut into pieces."""
        wild = self.random.choice([0, 0, 0.1, 0.3])
        data = b"".join(self.request(wild) for _ in range(self.random.randrange(1, 5)))
        if self.random.random() < wild:
            place = self.random.randrange(len(data))
            data = data[:place] + self.random.randbytes(1) + data[place + self.random.randrange(2) :]
        data += END
        cuts = sorted(
            {0, len(data), *(self.random.randrange(len(data)) for _ in range(self.random.choice([0, 0, 1, 3, 10])))}
        )
        return [data[begin:end] for begin, end in itertools.pairwise(cuts)]


async def fuzz(seed: int, number: int) -> None:
    sides = [Sides(), Sides(decompress_request=True), Sides(no_keep_alive=True)]
    generator = Generator(seed)
    try:
        for index in range(number):
            pieces = generator.conversation()
            try:
                await sides[(0, 0, 0, 1, 1, 2)[index % 6]].compare(pieces)
            except AssertionError as error:
                raise AssertionError(f"seed {seed}, conversation {index} is one for DIFFERENCES: {pieces!r}") from error
    finally:
        for side in sides:
            await side.stop()


@as_tornado_6_6
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_conversations_are_what_they_are_with_tornado(loop: str, seed: int) -> None:
    run(fuzz(seed, 200), loop)


@as_tornado_6_6
@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_many_conversations_are_what_they_are_with_tornado(loop: str, seed: int) -> None:
    run(fuzz(seed, 10_000), loop)  # 20,000 on both loops, others in each run


@as_tornado_6_6
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", DIFFERENCES)
def test_what_once_differed_does_not(name: str, loop: str) -> None:
    options, pieces = DIFFERENCES[name]

    async def ask() -> None:
        sides = Sides(**options)
        whole = b"".join(pieces)
        for cut in (pieces, [whole], [whole[i : i + 1] for i in range(len(whole))]):
            await sides.compare([*cut, END])
        await sides.stop()

    run(ask(), loop)


@as_tornado_6_6
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_request_is_what_it_is_with_tornado(name: str, loop: str) -> None:
    async def ask() -> None:
        sides = Sides()
        for data in AMBIGUOUS[name]:
            # whole, byte by byte, and cut at the end of the head
            at = data.find(b"\r\n\r\n") + 4
            for pieces in (
                [data + END],
                [*(data[i : i + 1] for i in range(len(data))), END],
                [data[:at], data[at:] + END],
            ):
                answer, seen = await sides.compare(pieces)
                if name in FRAMED:
                    assert "/forged" not in str([what[:2] for what in seen])  # type: ignore[index]
                    assert b"HTTP/1.1 200 OK" in answer
            # and whatever follows it is answered, or the connection has ended
            await sides.compare([data, FORGED, END])
        await sides.stop()

    run(ask(), loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_websocket_has_what_came_early(loop: str) -> None:
    frame = b"\x81\x85\0\0\0\0early"
    head = (
        b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    leave = b"\x88\x82\0\0\0\0\x03\xe8"

    async def ask() -> None:
        sides = Sides()
        for pieces in ([head + frame + leave], [head, frame, leave], [head + frame[:3], frame[3:] + leave]):
            answer, seen = await sides.compare(pieces)
            assert b"\x81\x05early" in answer
            assert seen == ["early"]
        await sides.stop()

    run(ask(), loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_client_that_leaves_or_resets_at_any_byte_leaves_nothing_behind(loop: str) -> None:
    body = b"x" * 30
    requests = [
        b"POST /?turns=7 HTTP/1.1\r\nHost: x\r\nContent-Length: 30\r\n\r\n"
        + body
        + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /streams?wait=1 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\n"
        + body
        + b"\r\n0\r\n\r\n",
        b"GET /flushes HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
    ]
    reset = struct.pack("ii", 1, 0)

    async def leave() -> None:
        seen: list[object] = []
        server = Server(application(seen), limits=Limits(0, 1))
        listener, port = bind_unused_port()
        server.add_socket(listener)
        for data in requests:
            for length in range(0, len(data) + 1):
                for how in ("close", "reset", "half"):
                    with socket.create_connection(("127.0.0.1", port)) as connection:
                        connection.sendall(data[:length])
                        for _ in range(length % 4):
                            await asyncio.sleep(0)
                        if how == "reset":
                            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
                        elif how == "half":
                            connection.shutdown(socket.SHUT_WR)
                            await asyncio.sleep(0)
        await until_async(lambda: not (server.connections or server.counters.in_flight or server.bodies))
        server.stop()
        assert server.counters.total > 0

    run(asyncio.wait_for(leave(), 60), loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_slow_reader_makes_the_application_wait(loop: str) -> None:
    """And gets every byte."""

    class Large(RequestHandler):
        async def get(self) -> None:
            for number in range(200):
                self.write(bytes([number]) * 100_000)
                await self.flush()
                flushed.append(number)

    flushed: list[int] = []

    async def read() -> None:
        server = Server(Application([("/", Large)]))
        listener, port = bind_unused_port()
        server.add_socket(listener)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        await until_async(lambda: bool(flushed))
        before = -1
        while before != len(flushed):
            before = len(flushed)
            await asyncio.sleep(0.2)
        assert before < 150  # the rest waits for the client
        await reader.readuntil(b"\r\n\r\n")
        body = await reader.read(-1)
        assert body == b"".join(bytes([number]) * 100_000 for number in range(200))
        writer.close()
        server.stop()

    run(asyncio.wait_for(read(), 60), loop)


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_an_answer_that_nobody_reads_any_more_ends(loop: str) -> None:
    class Large(RequestHandler):
        def get(self) -> None:
            self.write(b"x" * 20_000_000)

        def on_connection_close(self) -> None:
            raise AssertionError  # it has finished

    async def leave() -> None:
        server = Server(Application([("/", Large)], log_function=lambda _: None))
        listener, port = bind_unused_port()
        server.add_socket(listener)
        _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await until_async(lambda: bool(server.counters.in_flight))
        await asyncio.sleep(0.05)
        assert server.counters.in_flight == 1  # its last byte was not sent
        writer.transport.abort()
        await until_async(lambda: not (server.connections or server.counters.in_flight))
        server.stop()

    run(asyncio.wait_for(leave(), 60), loop)


@stream_request_body
class Ids(RequestHandler):
    async def prepare(self) -> None:
        self.ids = [request_id.get()]

    def data_received(self, chunk: bytes) -> None:
        self.ids.append(request_id.get())

    async def post(self) -> None:
        await asyncio.sleep(0)
        self.write({"ids": [*self.ids, request_id.get()]})


@pytest.fixture(params=[0, 256], ids=["crowd", "loop"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every connection be one of a crowd, or none."""
    monkeypatch.setattr(server_module, "FEW", request.param)


@pytest.mark.usefixtures("few")
def test_a_body_in_pieces_has_one_request_id() -> None:
    """And so has that of a request that was sent before the answer to the one before it."""
    head = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"

    async def ask() -> None:
        async with served([("/", Ids)]) as address:
            peers = [await asyncio.open_connection(*address) for _ in range(3)]
            for piece in (head + b"a", b"b", b"c" + head + b"d", b"e", b"f" + head, b"gh", b"i"):
                for _, writer in peers:
                    writer.write(piece)
                    await asyncio.sleep(0.01)
            seen = set()
            for reader, writer in peers:
                for _ in range(3):
                    ids = (await read_json(reader))["ids"]
                    assert len(ids) >= 4
                    assert len(set(ids)) == 1, ids
                    seen.add(ids[0])
                writer.close()
            assert len(seen) == 9

    asyncio.run(asyncio.wait_for(ask(), 20))


class Large(RequestHandler):
    ids: ClassVar[list[str]] = []

    async def get(self) -> None:
        self.ids.append(request_id.get())
        self.set_header("Content-Length", "20000000")
        self.write(b"x" * 10_000_000)
        with contextlib.suppress(StreamClosedError):
            await self.flush()
        await asyncio.sleep(20)

    def on_connection_close(self) -> None:
        self.ids.append(request_id.get())


@pytest.mark.usefixtures("few")
def test_the_end_of_a_connection_that_is_written_to_has_its_request_id() -> None:
    Large.ids.clear()

    async def ask() -> None:
        async with served([("/", Large)]) as address:
            with socket.create_connection(address) as peer:
                peer.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                await until_async(lambda: len(Large.ids) == 1)
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await until_async(lambda: len(Large.ids) == 2)
            assert Large.ids[0] == Large.ids[1]

    asyncio.run(asyncio.wait_for(ask(), 20))


@pytest.mark.usefixtures("few")
def test_a_large_head_has_one_request_id() -> None:
    """One that is more than the loop is kept for."""

    async def ask() -> None:
        async with served([("/", Ids)], max_header_size=4_000_000) as address:
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nX: " + b"y" * 2_000_000 + b"\r\n\r\na")
            for piece in (b"b", b"c"):
                await writer.drain()
                await asyncio.sleep(0.1)
                writer.write(piece)
            assert len(set((await read_json(reader))["ids"])) == 1
            writer.close()

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_a_stream_in_a_crowd_may_leave_before_it_waits_for_anything() -> None:
    """As ``IOStream.start_tls`` has it do."""

    async def leave() -> None:
        crowd = Crowd()
        with socket.socket() as one:
            crowd.remove_handler(one)
            crowd.add_handler(one, lambda *_: None, crowd.READ)
            crowd.remove_handler(one)
        assert not crowd._events

    asyncio.run(leave())
