"""A connection of HTTP/1.1, its requests one after the other, as a state machine on a non-blocking socket.

`Connection` and `Request` stand beneath Tornado's public interface (`tornado.httputil`: `HTTPServerConnectionDelegate`,
`HTTPMessageDelegate`, `HTTPConnection`) in the place of ``tornado.http1connection``, and do what that does, to the letter: the
same bytes give the same answers, the same calls of the delegate, the same end of the connection. Tornado's core is a coroutine
that awaits futures of an `IOStream`; here a method is called when the socket has bytes, so nothing is made for a request
that it does not need: no task, and no future unless bytes wait to be sent or a delegate returned an awaitable.

Events go to an `Events`: what a server that counts, drains and limits has to know, which Tornado's core tells nobody.
"""

import asyncio
import contextlib
import re
import socket
from asyncio import AbstractEventLoop, Future, TimerHandle
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from enum import IntEnum, auto
from inspect import signature
from itertools import islice
from typing import Any, cast

from tornado.escape import native_str, utf8
from tornado.http1connection import (
    HTTP1ConnectionParameters,
    is_transfer_encoding_chunked,
    parse_hex_int,
    parse_int,
)
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    HTTPOutputError,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.ioloop import IOLoop
from tornado.iostream import IOStream, StreamClosedError
from tornado.log import app_log, gen_log

from eyewall.crowd import Crowd
from eyewall.head import parse_head, well_formed
from eyewall.private import GzipMessageDelegate
from eyewall.stream import TURNS, linger

READ = 65536  # bytes that are read at a time, and that may wait for the answer before them
READ_HEAD = 16384  # the memory for a read is taken before its size is known
SEND_PIECES = 64  # fewer than IOV_MAX
# As in Tornado: the loop has its turn after so many bytes of a body; a chunk counts for its size and for its handling.
YIELD = 256 * 1024
CHUNK_COST = 1024
MAX_SIZE_LINE = 64
LONG_QUEUE = 64  # writes that wait

NOBODY = HTTPMessageDelegate()  # the delegate between two requests
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")
_GZIP_ARGUMENTS = len(signature(GzipMessageDelegate).parameters)  # 6.5.3 added max_body_size


class Events(HTTPMessageDelegate):
    """What a server hears of a connection; for a request with a body it also stands before the delegate."""

    delegate: HTTPMessageDelegate

    def begin(self, request: "Request", headers: HTTPHeaders) -> None:
        """Hear of a request, before its delegate does."""

    def answered(self, status: int) -> None:
        """Hear that an answer was sent to its last byte. This runs before the handler's own end."""

    def detached(self, stream: IOStream) -> None:
        """Hear that the application has taken the connection over; the server hears ``on_close`` as well."""

    def malformed(self) -> None:
        """Hear of what is no head of a request."""


class State(IntEnum):
    """What the next bytes are, or why none are read."""

    HEAD = auto()
    FIXED = auto()  # body with a Content-Length
    SIZE = auto()  # line with the size of a chunk
    CHUNK = auto()
    CRLF = auto()  # after a chunk
    LAST = auto()  # CRLF after the last
    WAIT = auto()  # the delegate has returned an awaitable
    ANSWER = auto()  # the request was read
    ENDING = auto()  # an error is being sent
    OVER = auto()  # the server was told


HEAD, FIXED, SIZE, CHUNK, CRLF, LAST, WAIT, ANSWER, ENDING, OVER = State
_NEEDS_BYTES = frozenset((FIXED, SIZE, CHUNK, CRLF, LAST))


class Surroundings:
    """What the connections of a server have in common, as long as its loop is the same."""

    def __init__(self, server: Any, loop: AbstractEventLoop) -> None:
        self.params: HTTP1ConnectionParameters = server.conn_params
        self.max_buffer_size: int = server.max_buffer_size or 104857600
        self.loop = loop
        self.io_loop = IOLoop.current()
        # One for all: nobody can change a future that is done.
        self.done: Future[None] = loop.create_future()
        self.done.set_result(None)
        # What is done between two requests belongs to neither.
        self.context = copy_context()
        self.lingering: set[asyncio.Task[None]] = server.lingering


class Connection:
    """A TCP connection (or one of a Unix socket) of a server; what Tornado calls ``server_conn``.

    `around` is the `server`'s, `connected` a socket that was accepted, `context` what ``HTTPConnection.context`` is to be,
    `crowd` what watches the socket in the place of the loop.
    """

    __slots__ = (
        "__weakref__", "around", "busy", "chunks", "connected", "context", "crowd", "data", "delegate", "events", "futures",
        "kept", "more", "out", "paused", "position", "remaining", "request", "scanned", "scope", "sent", "server",
        "state", "tell_close", "then", "timer", "total", "turns", "unread", "waits_for", "work",
    )  # fmt: skip

    def __init__(
        self,
        server: Any,
        around: Surroundings,
        connected: socket.socket,
        *,
        context: object,
        events: Events,
        crowd: Crowd | None = None,
    ) -> None:
        self.crowd = crowd
        self.server = server
        self.around = around
        self.connected: socket.socket | None = connected
        self.context = context
        self.events = events
        self.state: State = HEAD
        # Bytes that were read, and where those begin that nobody has taken; `scanned` of them have no end of a head.
        self.data = b""
        self.position = self.scanned = 0
        self.request: Request | None = None
        self.delegate: HTTPMessageDelegate | None = None
        self.paused = self.busy = self.more = self.unread = self.tell_close = False
        # Bytes that wait to be sent, how many were handed over in all, and futures by what has to be sent for them.
        self.out: deque[memoryview] | None = None
        self.timer: TimerHandle | None = None
        # What a request's code runs in where that is not the context that the loop has for this connection: of one in a crowd,
        # and of one that was sent before the answer to the one before it.
        self.scope: Context | None = None
        self._watch_reads(connected)

    @property
    def _watcher(self) -> "Crowd | AbstractEventLoop":
        return self.crowd or self.around.loop

    # Reading

    def _watch_reads(self, connected: socket.socket) -> None:
        if self.crowd is None:
            self.around.loop.add_reader(connected.fileno(), self._readable)
        else:
            self.crowd.add_reader(connected.fileno(), self._readable_in_crowd)

    def _watch_writes(self, connected: socket.socket) -> None:
        if self.crowd is None:
            self.around.loop.add_writer(connected.fileno(), self._writable)
        else:
            self.crowd.add_writer(connected.fileno(), self._writable_in_crowd)

    def _writable_in_crowd(self) -> None:
        if self.scope is None:
            self._writable()
        else:
            self.scope.run(self._writable)

    def _readable_in_crowd(self) -> None:
        scope = self.scope
        if scope is None:
            scope = self.scope = self.around.context.copy()
        scope.run(self._read)

    def _readable(self) -> None:
        if self.scope is None:
            self._read()
        else:
            self.scope.run(self._read)

    def _read(self) -> None:
        state = self.state
        if (state >= WAIT and (state is not ANSWER or len(self.data) - self.position >= READ)) or self.more:
            self._pause()
            return
        if state is ANSWER and self.turns:
            # Who sends no more, and waits for the answer, gets it if it does not take long.
            self.turns -= 1
            return
        if self._receive() and state is not ANSWER:
            self._go_on()

    def _receive(self) -> int:
        """Read once; return the number of bytes."""
        connected = cast(socket.socket, self.connected)
        try:
            data = connected.recv(READ_HEAD if self.state is HEAD else READ)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError:
            self._lose()
            return 0
        if not data:
            self._lose()
            return 0
        if self.position == len(self.data):
            self.data = data
        else:
            self.data = self.data[self.position :] + data
        self.position = 0
        return len(data)

    def _go_on(self) -> None:
        """Take what was read, and read until there is no more of a message that has begun.

        On uvloop, a connection that was reset is readable once and never again (libuv stops to poll it); what follows the
        bytes that were read then is only seen by who goes on to read.
        """
        self.more = False
        received = 0
        while self.state is not OVER and self._process():
            if received >= YIELD:
                self._go_on_soon()
                return
            if not (number := self._receive()):
                return
            received += number

    def _pause(self) -> None:
        """Read nothing for the moment: the socket's buffer fills, and the peer has to wait."""
        self.paused = True
        self._watcher.remove_reader(cast(socket.socket, self.connected).fileno())

    def _read_on(self) -> None:
        if self.paused and self.connected is not None:
            self.paused = False
            self._watch_reads(self.connected)

    def _process(self) -> bool:
        """Take what was read, as far as it goes; return whether more has to come for what has begun."""
        self.busy = True
        try:
            while self._step():
                pass
        except HTTPInputError as error:
            self._refuse(error)
        except Exception:  # as Tornado's core has it around everything
            gen_log.error("Uncaught exception", exc_info=True)
            self.shut()
            self._fail()
        finally:
            self.busy = False
        self._processed()
        if self.connected is None or self.more:
            return False
        return self.state < WAIT and (self.state is not HEAD or self.position < len(self.data))

    def _processed(self) -> None:
        """Wait for more bytes, or be at the end."""
        state = self.state
        if self.connected is None:
            if state < WAIT:
                self._fail()
        elif self.paused and not self.more and (state < WAIT or state is ANSWER):
            self._read_on()

    def _step(self) -> bool:
        """Take a head or a piece of a body; return whether to go on."""
        state = self.state
        if self.connected is None:
            return False
        if state is HEAD:
            return self.position < len(self.data) and self._take_head()
        if state is FIXED:
            return self._take_fixed()
        if state in _NEEDS_BYTES:
            return self._take_chunked()
        return False

    def _take(self, size: int) -> bytes:
        """Return the next `size` bytes, which must be there."""
        data, begin = self.data, self.position
        end = begin + size
        if end == len(data):
            self.data, self.position = b"", 0
            return data[begin:] if begin else data
        self.position = end
        return data[begin:end]

    def _unsatisfiable(self, delimiter: object, size: int) -> None:
        gen_log.info("Unsatisfiable read, closing connection: delimiter %r not found within %d bytes", delimiter, size)
        self.shut()
        self._fail()

    # The head

    def _take_head(self) -> bool:
        data, begin, most = self.data, self.position, self.around.params.max_header_size
        start = begin + max(self.scanned - 3, 0)
        end = data.find(b"\r\n\r\n", start) + 4
        parsed = None
        if end > 3 and end - begin <= most:
            parsed = well_formed(data[begin:end])
        if parsed is None:
            # There may be an end before that one, of bare LF.
            match = _END_OF_HEAD.search(data, start)
            end = len(data) if match is None else match.end()
            if end - begin > most:
                self.events.malformed()
                self._unsatisfiable(_END_OF_HEAD, most)
                return False
            if match is None:
                self.scanned = end - begin
                return False
        self.scanned = 0
        head = self._take(end - begin)
        return self._begin(*(parsed or parse_head(head)))

    def _begin(self, line: RequestStartLine, headers: HTTPHeaders) -> bool:
        params, fields = self.around.params, headers._as_list
        request = Request(self, line, headers)
        connection = ",".join(fields["Connection"]).lower() if "Connection" in fields else None
        if params.no_keep_alive:
            pass
        elif line.version == "HTTP/1.1":
            request.disconnect = connection == "close"
        elif "Content-Length" in fields or is_transfer_encoding_chunked(headers) or line.method in ("HEAD", "GET"):
            request.disconnect = connection != "keep-alive"
        self.request = request
        delegate = self.server.start_request(self, request)
        events = self.events
        events.delegate = delegate
        has_body = "Content-Length" in fields or "Transfer-Encoding" in fields
        if has_body and fields.get("Content-Length") != ["0"]:
            self.unread = True
            delegate = events
        if params.decompress:
            arguments: tuple[Any, ...] = (events, params.chunk_size, request.max_body_size)
            delegate = GzipMessageDelegate(*arguments[:_GZIP_ARGUMENTS])
        self.delegate = delegate
        events.begin(request, headers)
        then = self._begin_body if has_body or "Expect" in fields else self._end_of_request
        return self._call(delegate.headers_received, then, line, headers)

    def _begin_body(self) -> bool:
        request = cast(Request, self.request)
        if self.connected is None:
            self._fail()
            return False
        headers = request.headers
        if headers.get("Expect") == "100-continue" and not request.write_finished:
            self.send(b"HTTP/1.1 100 (Continue)\r\n\r\n")
        length = None
        if "Content-Length" in headers:
            value = headers["Content-Length"]
            if "," in value:
                # Equal ones are what a proxy has made of one.
                pieces = re.split(r",[ \t]*", value)
                if any(piece != pieces[0] for piece in pieces):
                    raise HTTPInputError(f"Multiple unequal Content-Lengths: {value!r}")
                value = headers["Content-Length"] = pieces[0]
            try:
                length = parse_int(value)
            except ValueError:
                raise HTTPInputError(f"Only integer Content-Length is allowed: {value}") from None
            if length > request.max_body_size:
                raise HTTPInputError("Content-Length too long")
        if is_transfer_encoding_chunked(headers):
            self.state = SIZE
            self.chunks = bytearray()
            self.total = 0
            self.work = 0
        elif length:
            self.state = FIXED
            self.remaining = length
        else:
            return self._end_of_request()
        if request.body_timeout is not None:
            self.timer = self.around.loop.call_later(request.body_timeout, self._time_out)
        return True

    # The body

    def _take_fixed(self) -> bool:
        size = min(len(self.data) - self.position, self.remaining, self.around.params.chunk_size)
        if not size:
            return False
        self.remaining -= size
        return self._deliver(self._take(size), self._end_of_request if not self.remaining else _go_on)

    def _take_chunked(self) -> bool:
        """Take chunks until there are no more bytes, or `chunk_size` of them can be delivered: their bounds mean nothing."""
        chunks, most = self.chunks, self.around.params.chunk_size
        enough = True
        while enough and self.work < YIELD:
            state = self.state
            if state is CHUNK:
                enough = self._take_chunk(most - len(chunks))
                if len(chunks) >= most:
                    return self._deliver_chunks(_go_on)
            elif state is SIZE:
                enough = self._take_size()
            else:
                enough = self._take_end_of_chunk()
                if enough and state is LAST:
                    return self._deliver_chunks(self._end_of_request) if chunks else self._end_of_request()
        if self.state is OVER:
            return False
        if enough:
            self.work = 0
            self._go_on_soon()
            return False
        return bool(chunks) and self._deliver_chunks(_go_on)

    def _take_size(self) -> bool:
        begin = self.position
        end = self.data.find(b"\r\n", begin, begin + MAX_SIZE_LINE)
        if end < 0:
            if len(self.data) - begin > MAX_SIZE_LINE:
                self._unsatisfiable(b"\r\n", MAX_SIZE_LINE)
            return False
        self.position = end + 2
        try:
            size = parse_hex_int(native_str(self.data[begin:end]))
        except ValueError:
            raise HTTPInputError("invalid chunk size") from None
        self.state = CHUNK if size else LAST
        self.remaining = size
        self.total += size
        self.work += CHUNK_COST
        if self.total > cast(Request, self.request).max_body_size:
            raise HTTPInputError("chunked body too large")
        return True

    def _take_chunk(self, most: int) -> bool:
        begin = self.position
        size = min(len(self.data) - begin, self.remaining, most)
        self.chunks += memoryview(self.data)[begin : begin + size]
        self.position += size
        self.remaining -= size
        self.work += size
        if not self.remaining:
            self.state = CRLF
        return size > 0

    def _take_end_of_chunk(self) -> bool:
        end = self.data[self.position : self.position + 2]
        if len(end) < 2:
            return False
        if end != b"\r\n":
            raise HTTPInputError(f"improperly terminated chunk{'ed request' if self.state is LAST else ''}")
        self.position += 2
        self.state = SIZE
        return True

    def _deliver_chunks(self, then: Callable[[], bool]) -> bool:
        data = bytes(self.chunks)
        self.chunks.clear()
        return self._deliver(data, then)

    def _deliver(self, data: bytes, then: Callable[[], bool]) -> bool:
        if cast(Request, self.request).write_finished:
            return then()  # what is left of a body after its answer is thrown away
        return self._call(cast(HTTPMessageDelegate, self.delegate).data_received, then, data)

    def _go_on_soon(self) -> None:
        """Let the loop have its turn in the midst of what was read."""
        self.more = True
        self.around.loop.call_soon(self._go_on, context=self.scope)

    def _time_out(self) -> None:
        self.timer = None
        if self.state is not OVER:
            gen_log.info("Timeout reading body from %s", self.context)
            self.shut()
            self._fail()

    # The delegate

    def _call(
        self, method: Callable[..., Awaitable[None] | None], then: Callable[[], bool], *arguments: object
    ) -> bool:
        """Call a method of the delegate, and `then` when what it returned is done; return whether to go on at once."""
        try:
            awaitable = method(*arguments)
            if awaitable is not None:
                future = asyncio.ensure_future(awaitable)
                if not future.done() or future.cancelled():
                    self.waits_for = future
                    self.then = self.state, then
                    self.state = WAIT
                    future.add_done_callback(self._called)
                    return False
                future.result()
        except HTTPInputError:
            raise
        except Exception:
            self._log_and_fail()
            return False
        return then()

    def _called(self, future: "Future[None]") -> None:
        if self.state is not WAIT:  # detached, or its time was up
            if not future.cancelled():
                future.exception()
            return
        self.state, then = self.then
        del self.then, self.waits_for
        self.busy = True
        try:
            if future.cancelled():
                self._fail(close=True)
                return
            future.result()
            if then() and self.connected is not None:
                self._go_on()
                return
        except HTTPInputError as malformed:
            self._refuse(malformed)
        except Exception:
            self._log_and_fail()
        finally:
            self.busy = False
        self._processed()

    def _log_and_fail(self) -> None:
        """Close the connection for an error of the delegate, which is being handled."""
        app_log.error("Uncaught exception", exc_info=True)
        self._fail(close=True)

    def _end_of_request(self) -> bool:
        """Let the delegate answer: the request was read."""
        request = cast(Request, self.request)
        if self.state is OVER or request.detached:
            return False
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.unread = False
        request._read_finished = True
        if request.write_finished:
            self.tell_close = True
        else:
            try:
                cast(HTTPMessageDelegate, self.delegate).finish()
            except HTTPInputError:
                raise
            except Exception:
                self._log_and_fail()
                return False
            if request.detached:
                return False
        if request.answered:
            self._next()
            return False
        self.state = ANSWER
        self.turns = TURNS
        if self.connected is None:
            self._over()
        return False

    def answer_sent(self, request: "Request") -> None:
        """Go on after an answer whose last byte was handed to the kernel; `Request` calls this."""
        if self.connected is not None:
            self.events.answered(request.status)
            if request.disconnect:
                self.shut()
        if self.state is ANSWER:
            self._next()
        elif self.connected is None and not self.busy:
            self.around.loop.call_soon(self._after_close)

    def _next(self) -> None:
        """Be ready for another request, or at the end."""
        if self.tell_close:
            self.tell_close = False
            self._tell_close()
        if self.connected is None:
            self._over()
            return
        request = cast(Request, self.request)
        self.state = HEAD
        self.request = None
        if request.status != 101:  # detach() comes then
            self.delegate = None
            self.events.delegate = NOBODY
        self.scope = None
        if self.data:
            # Others have their turn between two requests.
            self.more = True
            self.scope = self.around.context.copy()
            self.around.loop.call_soon(self._go_on, context=self.scope)
        elif self.paused:
            self.around.context.copy().run(self._read_on)

    # The end

    def _lose(self) -> None:
        """Notice that the peer has closed the connection."""
        self._shut(lingers=False)
        self._after_close()

    def _after_close(self) -> None:
        """Tell whoever has to know that the connection was closed."""
        state = self.state
        if state in (OVER, WAIT):
            return
        request = self.request
        if state is ANSWER and request is not None:
            request.answered = True
            callback, request.close_callback = request.close_callback, None
            if callback is not None:
                try:
                    callback()
                except Exception:
                    app_log.error("Exception in callback %r", callback, exc_info=True)
            if self.tell_close:
                self._tell_close()
            self._over()
        else:
            self._fail()

    def _fail(self, close: bool = False) -> None:
        """End, and tell the delegate, which has been told of a request and not of its end."""
        if self.state is OVER:
            return
        self.state = ENDING
        if close:
            self.shut()
        if self.delegate is not None and self.request is not None:
            self._tell_close()
        self._over()

    def _tell_close(self) -> None:
        try:
            cast(HTTPMessageDelegate, self.delegate).on_connection_close()
        except Exception:
            app_log.error("Uncaught exception", exc_info=True)

    def _refuse(self, error: HTTPInputError) -> None:
        """Answer what makes no sense with 400, whatever was answered before, and close."""
        if self.delegate is None or self.request is None:
            self.events.malformed()
        gen_log.info("Malformed HTTP message from %s: %s", self.context, error)
        self.state = ENDING
        sent = self.around.done if self.connected is None else self.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        if sent.done():
            self._fail(close=True)
        else:
            sent.add_done_callback(lambda _: self._fail(close=True))

    def _over(self) -> None:
        """Tell the server that the connection has ended."""
        if self.state is OVER:
            return
        self.state = OVER
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None
        self.data = b""
        self.delegate = self.request = None
        self.server.on_close(self)

    def shut(self) -> None:
        """Close the socket at once. Who does this also sees to it that the delegate and the server hear of it."""
        self._shut(lingers=self.unread)

    def _shut(self, lingers: bool) -> None:
        connected = self._let_go()
        if connected is None:
            return
        if lingers:
            linger(connected, self.around.loop, self.around.lingering)
            return
        with contextlib.suppress(OSError):  # also where a child that C code forked has a copy of it
            connected.shutdown(socket.SHUT_RDWR)
        connected.close()

    def _let_go(self) -> socket.socket | None:
        """Have nothing to do with the socket any more, and return it."""
        connected, self.connected = self.connected, None
        if connected is None:
            return None
        if not self.paused:
            self._watcher.remove_reader(connected.fileno())
        if self.out is not None:
            self._watcher.remove_writer(connected.fileno())
            self.out = None
            for _, future in self.futures:
                _resolve(future)
            self.futures.clear()
        return connected

    def close_and_tell(self) -> None:
        """Close for whoever asks, as if the peer had done it."""
        if self.connected is not None:
            self.shut()
            self.around.loop.call_soon(self._after_close)

    async def close(self) -> None:
        """Close, and return when the server was told; ``HTTPServer.close_all_connections`` awaits this."""
        self.shut()
        self._after_close()
        if self.state is WAIT:  # for the delegate, which is not told in the midst of what it does
            await asyncio.wait((self.waits_for,))
            await asyncio.sleep(0)

    def detach(self) -> IOStream:
        """Return a stream that takes the connection over, with what was read too early."""
        early = self.data[self.position :]
        self.data = b""
        self.position = 0
        connected = self._let_go()
        stream = DetachedStream(
            socket.socket() if connected is None else connected,
            early,
            max_buffer_size=self.server.max_buffer_size,
            read_chunk_size=self.server.read_chunk_size,
        )
        if self.crowd is not None:
            stream.io_loop = cast(IOLoop, self.crowd)
        if connected is None:
            stream.close()
        self.unread = False
        self.events.detached(stream)
        self._over()
        return stream

    # Writing

    def send(self, data: bytes) -> "Future[None]":
        """Send `data` after what was given before; the future is done when the kernel has all of it."""
        connected = cast(socket.socket, self.connected)
        out = self.out
        if out is None:
            if not data:
                return self.around.done
            try:
                number = connected.send(data)
            except (BlockingIOError, InterruptedError):
                number = 0
            except OSError as error:
                self._write_error(error)
                return self.around.done
            if number == len(data):
                return self.around.done
            self.out = out = deque((memoryview(data)[number:],))
            self.kept, self.sent = len(data) - number, 0
            self.futures: deque[tuple[int, Future[None]]] = deque()
            self._watch_writes(connected)
        else:
            out.append(memoryview(data))
            self.kept += len(data)
        future = self.around.loop.create_future()
        self.futures.append((self.kept, future))
        return future

    def _write_error(self, error: OSError) -> None:
        if not isinstance(error, ConnectionError | TimeoutError):
            gen_log.warning("Write error on %s: %s", self.context, error)
        self._shut(lingers=False)
        self.around.loop.call_soon(self._after_close)

    def _writable(self) -> None:
        connected, out = cast(socket.socket, self.connected), cast("deque[memoryview]", self.out)
        try:
            number = connected.sendmsg(list(islice(out, SEND_PIECES)))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._write_error(error)
            return
        self.sent += number
        while number:
            first = out[0]
            if number < len(first):
                out[0] = first[number:]
                break
            number -= len(out.popleft())
        while self.futures and self.futures[0][0] <= self.sent:
            _resolve(self.futures.popleft()[1])
        if not out:
            self.out = None
            self._watcher.remove_writer(connected.fileno())

    @property
    def stream(self) -> "StreamView":
        return StreamView(self)


def _go_on() -> bool:
    return True


def _resolve(future: "Future[None]") -> None:
    if not future.done():
        future.set_result(None)


def _format_head(code: int, reason: object, headers: HTTPHeaders) -> bytes:
    """Return an answer's head. Raises `ValueError` if a line has CR or LF in it."""
    first = utf8("HTTP/1.1 %d %s" % (code, reason))  # noqa: UP031 - an f-string takes what is no number
    try:
        lines = [f"{name}: " + value for name, values in headers._as_list.items() for value in values]
    except TypeError:  # bytes slip through here and there
        lines = [f"{native_str(name)}: {native_str(value)}" for name, value in headers.get_all()]
    lines.append("\r\n")
    data = b"%s\r\n%s" % (first, "\r\n".join(lines).encode("latin1"))
    if not data.count(b"\n") == data.count(b"\r") == len(lines) + 1:
        for line in (first, *(line.encode("latin1") for line in lines[:-1])):
            if b"\r" in line or b"\n" in line:
                raise ValueError(f"Illegal characters (CR or LF) in header: {line!r}")
    return data


class Request(HTTPConnection):
    """A request and its answer: what a delegate gets, and what an application knows as ``request.connection``.

    It has the public attributes and methods of `tornado.http1connection.HTTP1Connection`.
    """

    __slots__ = (
        "_read_finished", "answered", "body_timeout", "chunking", "close_callback", "connection", "detached", "disconnect",
        "headers", "is_last", "line", "max_body_size", "remaining", "status", "write_finished", "written",
    )  # fmt: skip

    is_client = False

    def __init__(self, connection: Connection, line: RequestStartLine, headers: HTTPHeaders) -> None:
        params = connection.around.params
        self.connection = connection
        self.line = line
        self.headers = headers
        self.max_body_size = connection.around.max_buffer_size if params.max_body_size is None else params.max_body_size
        self.body_timeout = params.body_timeout
        self.status = 0  # of the answer; 0: its headers have yet to be written
        # Whether the connection ends with the answer; whether it must, for a drain, unless it becomes another protocol's
        self.disconnect = True
        self.is_last = False
        # `eyewall.answers` asks for it by the name that it has in Tornado.
        self._read_finished = False
        self.write_finished = self.detached = self.chunking = False
        self.answered = False  # Tornado's _finish_future: the answer was sent, or never will be
        self.remaining: int | None = None  # bytes that the answer's Content-Length has yet to get
        self.written: Future[None] | None = None  # the last write
        self.close_callback: Callable[[], None] | None = None

    @property
    def context(self) -> Any:
        return self.connection.context

    @property
    def params(self) -> HTTP1ConnectionParameters:
        return self.connection.around.params

    @property
    def no_keep_alive(self) -> bool:
        return self.params.no_keep_alive

    @property
    def stream(self) -> "StreamView | None":
        """What an application may do with the stream; None when it was detached."""
        return None if self.detached else StreamView(self.connection)

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Set what is called when the peer closes the connection before the answer is complete."""
        self.close_callback = callback

    def set_body_timeout(self, timeout: float) -> None:
        """Set the seconds that the body of this request may take."""
        self.body_timeout = timeout

    def set_max_body_size(self, max_body_size: int) -> None:
        """Set the bytes that the body of this request may have."""
        self.max_body_size = max_body_size

    def end_keep_alive(self) -> None:
        """Let the connection end with this answer if its headers have yet to be written."""
        if not self.status:
            self.is_last = True

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> "Future[None]":
        """Write an answer's head, and the first piece of its body with it.

        Raises `ValueError` if a line has CR or LF in it, `HTTPOutputError` if `chunk` is longer than ``Content-Length``.
        """
        code = self.status = cast(ResponseStartLine, start_line).code
        fields, line = headers._as_list, self.line
        is_new, is_head = line.version == "HTTP/1.1", line.method == "HEAD"
        self.chunking = (
            is_new
            and "Content-Length" not in fields
            and not is_head
            and code not in (204, 304)
            and not 100 <= code < 200
        )
        if self.is_last:
            self.disconnect = code != 101
        if is_new:
            if self.disconnect:
                headers["Connection"] = "close"
        elif (
            not self.is_last
            and line.version == "HTTP/1.0"
            and self.headers.get("Connection", "").lower() == "keep-alive"
        ):
            headers["Connection"] = "Keep-Alive"
        if self.chunking:
            headers["Transfer-Encoding"] = "chunked"
        if is_head or code == 304:
            self.remaining = 0
        elif "Content-Length" in fields:
            self.remaining = parse_int(headers["Content-Length"])
        else:
            self.remaining = None
        data = _format_head(code, start_line[2], headers)
        if self.connection.connected is None:
            return _closed()
        if chunk:
            data += self._format(chunk)
        self.written = self.connection.send(data)
        return self.written

    def _format(self, chunk: bytes) -> bytes:
        if self.remaining is not None:
            self.remaining -= len(chunk)
            if self.remaining < 0:
                # the other side must not take it for something else
                self.connection.close_and_tell()
                raise HTTPOutputError("Tried to write more data than Content-Length")
        if self.chunking and chunk:  # an empty one would be the end
            return b"%x\r\n%s\r\n" % (len(chunk), chunk)
        return bytes(chunk) if not isinstance(chunk, bytes) else chunk

    def write(self, chunk: bytes) -> "Future[None]":
        """Write a piece of the answer's body; the future is done when the kernel has it.

        Raises `HTTPOutputError` if there is more than ``Content-Length`` said.
        """
        if self.connection.connected is None:
            return _closed()
        self.written = self.connection.send(self._format(chunk))
        return self.written

    def finish(self) -> None:
        """End the answer. Raises `HTTPOutputError` if there is less than ``Content-Length`` said."""
        connection = self.connection
        if self.remaining and connection.connected is not None:
            connection.close_and_tell()
            raise HTTPOutputError(f"Tried to write {self.remaining} bytes less than Content-Length")
        if self.chunking and connection.connected is not None:
            self.written = connection.send(b"0\r\n\r\n")
        self.write_finished = True
        if not self._read_finished:
            # What is left of the body can only be got rid of with the connection.
            self.disconnect = True
        if self.written is None or self.written.done():
            self._finished()
        else:
            self.written.add_done_callback(self._finished)

    def _finished(self, _: object = None) -> None:
        self.close_callback = None
        if not self.answered:
            self.answered = True
            self.connection.answer_sent(self)

    def close(self) -> None:
        """Close the connection, and have nothing more to do with its end."""
        self.close_callback = None
        self.connection.close_and_tell()

    def detach(self) -> IOStream:
        """Return the stream, which is the application's from now on; nothing of HTTP is done with it any more."""
        self.detached = self.answered = True
        self.close_callback = None
        return self.connection.detach()


def _closed() -> "Future[None]":
    future: Future[None] = Future()
    future.set_exception(StreamClosedError())
    future.exception()  # nobody has to ask for it
    return future


class TakenOver(HTTPConnection):
    """What a `Request` leaves when an application has taken its connection over: a tenth of what both were.

    It does what `tornado.http1connection.HTTP1Connection` does then, which is nothing.
    """

    __slots__ = ("connected", "context", "params")

    is_client = False
    stream = None

    def __init__(self, connection: Connection) -> None:
        self.connected = None
        self.context = connection.context
        self.params = connection.around.params

    @property
    def no_keep_alive(self) -> bool:
        return self.params.no_keep_alive

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        """Do nothing: the stream has one."""

    def set_body_timeout(self, timeout: float) -> None:
        """Do nothing: there is no body."""

    def set_max_body_size(self, max_body_size: int) -> None:
        """Do nothing: there is no body."""

    def write_headers(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders, chunk: bytes | None = None
    ) -> "Future[None]":
        """Return a future with `StreamClosedError`."""
        del start_line, headers, chunk
        return _closed()

    def write(self, chunk: bytes) -> "Future[None]":
        """Return a future with `StreamClosedError`."""
        del chunk
        return _closed()

    def finish(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing: whoever has the stream closes it."""

    def detach(self) -> None:
        """Return None, as Tornado does if it is asked a second time."""


class _Queue(list[Any]):
    """A `deque` of few, as far as `IOStream` needs one: an empty one is 72 bytes, where a `deque` is 760."""

    __slots__ = ()

    def popleft(self) -> Any:
        return self.pop(0)


class DetachedStream(IOStream):
    """An `IOStream` that begins with what was read before it was there."""

    __slots__ = ("_early",)

    def __init__(self, connected: socket.socket, early: bytes, **options: Any) -> None:
        super().__init__(connected, **options)
        self._early = early
        self._write_futures = cast("deque[Any]", _Queue())
        self._write_buffer._buffers = cast("deque[Any]", _Queue())

    def write(self, data: bytes | memoryview) -> "Future[None]":
        if len(self._write_futures) == LONG_QUEUE:
            self._write_futures = deque(self._write_futures)
            self._write_buffer._buffers = deque(self._write_buffer._buffers)
        return super().write(data)

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        early = self._early
        if not early:
            return super().read_from_fd(buf)
        number = min(len(buf), len(early))
        buf[:number] = early[:number]
        self._early = early[number:]
        return number


class StreamView:
    """As much of `IOStream` as an application has to do with while its request is answered (``request.connection.stream``)."""

    __slots__ = ("_connection",)

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @property
    def socket(self) -> socket.socket | None:
        return self._connection.connected

    @property
    def io_loop(self) -> IOLoop:
        return self._connection.around.io_loop

    @property
    def max_buffer_size(self) -> int:
        return self._connection.around.max_buffer_size

    def fileno(self) -> int:
        connected = self._connection.connected
        return -1 if connected is None else connected.fileno()

    def closed(self) -> bool:
        return self._connection.connected is None

    def reading(self) -> bool:
        """Return whether bytes of the peer are waited for."""
        return self._connection.connected is not None and self._connection.state < WAIT

    def writing(self) -> bool:
        return self._connection.out is not None

    def set_nodelay(self, value: bool) -> None:
        """Do nothing: ``TCP_NODELAY`` is on."""

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        if self._connection.request is not None:
            self._connection.request.close_callback = callback

    def write(self, data: bytes | memoryview) -> "Future[None]":
        """Send `data` as it is. Raises `StreamClosedError` if the connection is closed."""
        if self._connection.connected is None:
            raise StreamClosedError
        return self._connection.send(bytes(data))

    def close(self, exc_info: object = False) -> None:
        self._connection.close_and_tell()
