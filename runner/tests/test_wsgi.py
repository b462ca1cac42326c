"""`eyewall.wsgi`: in a WSGI server that checks every rule (`wsgiref.validate`), and in gunicorn."""

import asyncio
import concurrent.futures
import http.client
import io
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults
from wsgiref.validate import validator

import eyewall_wsgi_sample
import pytest
from eyewall.errors import Refusal
from eyewall.wsgi import WSGIApplication, make
from support.net import free_port
from support.runner import PATIENCE, WebSocket, environment
from support.waiting import until
from wsproto.events import RejectConnection

HUGE = 100 * 1024 * 1024


class Answer:
    def __init__(self, status: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = int(status[:3])
        self.headers = headers
        self.body = body

    def __getitem__(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def json(self) -> Any:
        assert self.status == 200, self.body
        return json.loads(self.body)


class Validated:
    """A WSGI server without a network, that checks what the server must do and what the application does."""

    def __init__(self, application: WSGIApplication) -> None:
        self.application = validator(application)

    def __call__(self, path: str, method: str = "GET", body: bytes = b"", **environ: Any) -> Answer:
        path, _, query = path.partition("?")
        environ = {"SCRIPT_NAME": "", "QUERY_STRING": query, **environ} | {
            "REQUEST_METHOD": method, "PATH_INFO": path, "SERVER_PROTOCOL": "HTTP/1.1",
            "wsgi.input": io.BytesIO(body),
        }  # fmt: skip
        if body:
            environ.setdefault("CONTENT_LENGTH", str(len(body)))
        setup_testing_defaults(environ)
        heads: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[..., object]:
            heads.append((status, headers))
            return heads.append

        pieces = self.application(environ, start_response)
        try:
            received = b"".join(pieces)
        finally:
            pieces.close()  # type: ignore[attr-defined]  # the validator has one
        return Answer(*heads[0], received)


@pytest.fixture(scope="module")
def ask() -> Iterator[Validated]:
    application = WSGIApplication(eyewall_wsgi_sample.make_app, timeout=1, trusted=["10.0.0.0/8"])
    yield Validated(application)
    end(application)


def end(application: WSGIApplication) -> None:
    """Do what the end of a process does."""
    (home,) = application._homes.values()
    assert home.thread is not None

    async def cancel() -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    asyncio.run_coroutine_threadsafe(cancel(), home.loop).result(PATIENCE)
    home.loop.call_soon_threadsafe(home.loop.stop)
    home.thread.join(PATIENCE)
    home.loop.run_until_complete(home.loop.shutdown_default_executor())
    home.loop.close()


def test_request(ask: Validated) -> None:
    answer = ask("/seen?a=1&a=%C3%A4", HTTP_HOST="board.example:8000", HTTP_COOKIE="one=1; two=2")
    seen = answer.json
    assert seen["arguments"] == {"a": ["1", "ä"]}
    assert seen["url"] == "http://board.example:8000/seen?a=1&a=%C3%A4"
    assert seen["cookie"] == "1"
    assert answer["Content-Length"] == [str(len(answer.body))]


@pytest.mark.parametrize(
    ("path", "environ", "uri", "argument"),
    [
        ("/seen/\xc3\xa4 b", {}, "/seen/%C3%A4%20b", "ä b"),  # PEP 3333's bytes as latin-1
        ("/seen/a/b", {"RAW_URI": "/seen/a%2Fb?c"}, "/seen/a%2Fb?c", "a/b"),  # what only the server knows
        ("/seen/a/b", {"REQUEST_URI": "/seen/a%2Fb?c"}, "/seen/a%2Fb?c", "a/b"),
        ("/seen/a", {"RAW_URI": "/prefix/seen/a?c", "QUERY_STRING": "d"}, "/seen/a?d", "a"),  # a middleware's change
        ("/a", {"SCRIPT_NAME": "/seen"}, "/seen/a", "a"),
    ],
)
def test_path(ask: Validated, path: str, environ: dict[str, str], uri: str, argument: str) -> None:
    seen = ask(path, **environ).json
    assert (seen["uri"], seen["path"]) == (uri, [argument])


def test_form_and_files(ask: Validated) -> None:
    form = urlencode({"text": "ä"}).encode()
    assert ask("/seen", "POST", form, CONTENT_TYPE="application/x-www-form-urlencoded").json["arguments"] == {
        "text": ["ä"]
    }
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="n"\r\n\r\n' + b"y" * 200_000 + b"\r\n--x--\r\n"
    answer = ask("/seen", "POST", body, CONTENT_TYPE="multipart/form-data; boundary=x")
    assert answer.json["files"] == {"f": [200_000]}


def test_cookies_stay_apart(ask: Validated) -> None:
    answer = ask("/cookies")
    assert (answer.status, answer["Location"]) == (302, ["/seen"])
    assert sorted(answer["Set-Cookie"]) == ["one=1; Path=/", "two=2; Path=/"]


def test_head(ask: Validated) -> None:
    answer = ask("/static/conftest.py", "HEAD")
    size = (Path(__file__).parent / "conftest.py").stat().st_size
    assert (answer.status, answer["Content-Length"], answer.body) == (200, [str(size)], b"")


def test_static_file(ask: Validated) -> None:
    content = (Path(__file__).parent / "conftest.py").read_bytes()
    answer = ask("/static/conftest.py")
    assert answer.body == content
    assert ask("/static/conftest.py", HTTP_IF_NONE_MATCH=answer["Etag"][0]).status == 304
    part = ask("/static/conftest.py", HTTP_RANGE="bytes=3-9")
    assert (part.status, part.body) == (206, content[3:10])
    assert part["Content-Range"] == [f"bytes 3-9/{len(content)}"]


def test_no_content(ask: Validated) -> None:
    answer = ask("/status/204")
    assert (answer.status, answer["Content-Type"], answer.body) == (204, [], b"")
    assert answer["Connection"] == []  # which is the server's


@pytest.mark.parametrize(
    ("peer", "headers", "ip", "scheme"),
    [
        ("10.0.0.7", {"HTTP_X_REAL_IP": "192.0.2.1", "HTTP_X_FORWARDED_PROTO": "https"}, "192.0.2.1", "https"),
        ("10.0.0.7", {"HTTP_X_FORWARDED_FOR": "192.0.2.9, 192.0.2.1, 10.0.0.8"}, "192.0.2.1", "http"),
        ("192.0.2.7", {"HTTP_X_REAL_IP": "192.0.2.1", "HTTP_X_FORWARDED_PROTO": "https"}, "192.0.2.7", "http"),
        ("", {"HTTP_X_REAL_IP": "192.0.2.1"}, "0.0.0.0", "http"),  # noqa: S104 - a Unix socket
    ],
)
def test_proxies(ask: Validated, peer: str, headers: dict[str, str], ip: str, scheme: str) -> None:
    seen = ask("/seen", REMOTE_ADDR=peer, **headers).json
    assert (seen["ip"], seen["url"].partition(":")[0]) == (ip, scheme)


def test_error(ask: Validated, caplog: pytest.LogCaptureFixture) -> None:
    answer = ask("/raises")
    assert (answer.status, b"500" in answer.body) == (500, True)
    assert "not today" in caplog.text


@pytest.mark.parametrize(
    ("environ", "status", "words"),
    [
        ({"HTTP_HOST": "a b"}, 400, "Host"),
        ({"CONTENT_LENGTH": "1_0"}, 400, "Content-Length"),  # ten, for int()
        ({"CONTENT_LENGTH": "50"}, 400, "ended after 3 of 50"),
        ({"HTTP_TRANSFER_ENCODING": "chunked"}, 411, "Content-Length"),
        ({"CONTENT_LENGTH": str(HUGE + 1)}, 413, f"{HUGE}"),
    ],
)
def test_refused_requests(ask: Validated, environ: dict[str, str], status: int, words: str) -> None:
    answer = ask("/upload", "PUT", b"abc", **environ)
    assert answer.status == status
    assert words in answer.body.decode()


def test_what_no_wsgi_server_can_do(ask: Validated, caplog: pytest.LogCaptureFixture) -> None:
    for headers in ({}, {"HTTP_UPGRADE": "websocket", "HTTP_CONNECTION": "Upgrade", "HTTP_SEC_WEBSOCKET_KEY": "eHh4"}):
        answer = ask("/echo", **headers)
        assert answer.status == 501
        assert b"cannot open WebSockets" in answer.body
    answer = ask("/detach")
    assert (answer.status, b"does not give its connections away" in answer.body) == (501, True)
    make("eyewall_sample:make_app")._homes.popitem()[1].loop.close()
    assert "eyewall_sample:make_app: /echo$ is a WebSocket" in caplog.text


def test_no_handler_hangs(ask: Validated, caplog: pytest.LogCaptureFixture) -> None:
    started = time.monotonic()
    answer = ask("/never")
    assert (answer.status, time.monotonic() - started < 3) == (503, True)
    assert "nothing came for 1 s" in caplog.text
    with pytest.raises(Exception, match="longer than 1 s"):
        ask("/never?begin=1")


def test_an_answer_of_another_length_is_not_taken_for_complete(ask: Validated) -> None:
    with pytest.raises(Exception, match="6 bytes less than Content-Length"):
        ask("/wrong")


def test_a_handler_that_exits_does_not_end_the_server(ask: Validated) -> None:
    assert ask("/exits").status == 503
    assert ask("/next").status == 200


def test_one_loop(ask: Validated) -> None:
    ask("/where")
    time.sleep(0.05)
    where = ask("/where").json
    ticks = where.pop("ticks")
    assert where == {"same_loop": True, "same_process": True, "executor": True}
    assert ticks > 2


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("eyewall_sample:raises", "no database here"),
        ("eyewall_sample:number", "got int; expected"),
        ("nowhere:app", "no module"),
    ],
)
def test_refused_targets(target: str, words: str) -> None:
    with pytest.raises(Refusal, match=words):
        make(target)


class Gunicorn:
    """A running gunicorn."""

    def __init__(self, directory: Path, target: str, *options: str) -> None:
        self.port = free_port()
        self.log_path = directory / f"gunicorn-{self.port}.log"
        command = [sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{self.port}", *options, target]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                command, env=environment() | {"HOME": str(directory)}, stdout=log, stderr=subprocess.STDOUT
            )

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def ready(self) -> Self:
        def check() -> bool:
            assert self.process.poll() is None, self.log
            return "Booting worker" in self.log and self.listens()

        until(check, "gunicorn")
        return self

    def listens(self) -> bool:
        try:
            return self.get("/next")[0] == 200
        except OSError:
            return False

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def get(self, path: str, method: str = "GET", **more: Any) -> tuple[int, bytes]:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            client.request(method, path, **more)
            response = client.getresponse()
            return response.status, response.read()
        finally:
            client.close()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.log


@pytest.fixture(scope="module")
def gunicorn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gunicorn]:
    target = (
        'eyewall.wsgi:make("eyewall_wsgi_sample:make_app", timeout=5, max_body_size=1500000, max_buffered_body=1000000)'
    )
    server = Gunicorn(tmp_path_factory.mktemp("gunicorn"), target, "--threads", "8").ready()
    try:
        yield server
    finally:
        server.stop()
        sys.stdout.write(server.log)


def test_pieces_arrive_when_they_are_flushed(gunicorn: Gunicorn) -> None:
    client = http.client.HTTPConnection("127.0.0.1", gunicorn.port, timeout=PATIENCE)
    client.request("GET", "/piecewise")
    response = client.getresponse()
    assert response.read(6) == b"first "
    gunicorn.get("/next")
    assert response.read() == b"second"
    client.close()


def test_many_at_once(gunicorn: Gunicorn) -> None:
    started = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: gunicorn.get("/slow?seconds=0.5"), range(8)))
    assert {status for status, _ in answers} == {200}
    assert time.monotonic() - started < 3  # one after the other: 4


@pytest.mark.parametrize("chunked", [False, True])
def test_upload(gunicorn: Gunicorn, chunked: bool) -> None:
    def body(size: int) -> Any:
        return iter([b"x" * (size // 2)] * 2) if chunked else b"x" * size

    assert gunicorn.get("/upload", "PUT", body=body(1_200_000)) == (200, b'{"length": 1200000}')
    status, text = gunicorn.get("/upload", "PUT", body=body(1_600_000))
    assert (status, text) == (413, b"At most 1500000 bytes are accepted.\n")
    # what does not stream it holds it in memory
    status, text = gunicorn.get("/seen", "POST", body=body(1_200_000))
    assert (status, text) == (413, b"At most 1000000 bytes are accepted.\n")


def test_a_client_that_leaves(gunicorn: Gunicorn) -> None:
    connection = gunicorn.connect()
    connection.sendall(b"GET /endless HTTP/1.1\r\nHost: x\r\n\r\n")
    assert len(connection.recv(1000)) > 0
    connection.close()
    until(lambda: "the client has left" in gunicorn.log, "on_connection_close")


def test_websocket(gunicorn: Gunicorn) -> None:
    socket_ = WebSocket(gunicorn, "/echo")  # type: ignore[arg-type]  # it has connect()
    event = socket_.receive()
    assert isinstance(event, RejectConnection)
    assert event.status_code == 501
    socket_.close()
    assert "/echo$ is a WebSocket" in gunicorn.log


def test_after_a_fork(tmp_path: Path) -> None:
    options = ("--preload", "--workers", "2", "--threads", "2")
    server = Gunicorn(tmp_path, 'eyewall.wsgi:make("eyewall_wsgi_sample:make_app")', *options).ready()
    try:
        for _ in range(8):
            status, body = server.get("/where")
            where = json.loads(body)
            assert (status, where["same_loop"], where["same_process"]) == (200, True, True)
    finally:
        server.stop()


def test_gunicorn_says_what_is_wrong(tmp_path: Path) -> None:
    server = Gunicorn(tmp_path, 'eyewall.wsgi:make("eyewall_sample:raises")')
    assert server.process.wait(PATIENCE) != 0
    assert "Refusal: eyewall_sample:raises: the factory raised RuntimeError: no database here" in server.log
