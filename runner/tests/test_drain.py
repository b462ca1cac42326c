"""What a process owes its clients between SIGTERM and its end."""

import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.runner import POST, Eyewall, Posters, WebSocket, ask_admin, receive_answer, stop_with_a_full_queue
from support.waiting import until
from wsproto.events import CloseConnection

pytestmark = pytest.mark.slow

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_a_slow_request_is_answered_and_told_to_close(server: Eyewall) -> None:
    with ThreadPoolExecutor() as pool:
        client = server.client()
        client.request("GET", "/slow?seconds=1")
        answer = pool.submit(client.getresponse)
        server.logged("slow begins")
        server.terminate()
        response = answer.result()
        assert response.status == 200
        assert response.getheader("Connection") == "close"
        response.read()
        client.close()
    assert server.wait() == 0
    assert "the last connection is gone" in server.log


def test_a_drain_shows_in_readiness_and_refuses_new_connections(server: Eyewall) -> None:
    with server.connect() as idle:
        idle.sendall(GET)
        receive_answer(idle)
        server.terminate()
        status, body = ask_admin(server.admin, "/ready")
        assert status == 503
        assert '"state": "draining"' in body
        assert ask_admin(server.admin, "/health")[0] == 200
        with pytest.raises(ConnectionRefusedError):
            server.connect()


def test_a_kept_alive_connection_ends_with_its_next_answer(server: Eyewall) -> None:
    with server.connect() as connection:
        connection.sendall(POST)
        head, _ = receive_answer(connection)
        assert "Connection: close" not in head
        server.terminate()
        connection.sendall(POST)
        head, body = receive_answer(connection)
        assert "Connection: close" in head
        assert b'"length": 5' in body
        assert connection.recv(1) == b""
    assert server.wait() == 0


def test_an_http_1_0_client_is_not_promised_keep_alive(server: Eyewall) -> None:
    request = b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(request)
        head, _ = receive_answer(connection)
        assert "Connection: Keep-Alive" in head
        server.terminate()
        connection.sendall(request)
        head, _ = receive_answer(connection)
        assert "Keep-Alive" not in head
        assert connection.recv(1) == b""


def test_an_idle_connection_is_closed_by_nobody_before_the_time_is_up(start: Start) -> None:
    server = start(SAMPLE, "--drain-timeout", "2").ready()
    with server.connect() as connection:
        connection.sendall(GET)
        receive_answer(connection)
        begin = time.monotonic()
        server.terminate()
        assert connection.recv(1) == b""
        passed = time.monotonic() - begin
    assert passed >= 1.9
    assert server.wait() == 0
    assert "1 connections cut, requests in flight: 0" in server.log


def test_what_waits_in_the_accept_queue_is_answered(server: Eyewall) -> None:
    stop_with_a_full_queue(server, server.connect)
    assert server.wait() == 0


def test_an_upload_in_flight_is_taken_whole(server: Eyewall) -> None:
    part = b"x" * 100_000
    with server.connect() as connection:
        connection.sendall(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + part)
        server.logged("upload begins")
        server.terminate()
        for _ in range(9):
            time.sleep(0.05)
            connection.sendall(part)
        head, body = receive_answer(connection)
    assert "200 OK" in head
    assert b'"length": 1000000' in body
    assert server.wait() == 0


def test_a_download_in_flight_is_given_whole(server: Eyewall) -> None:
    client = server.client()
    client.request("GET", "/download?chunks=10")
    response = client.getresponse()
    assert response.getheader("Connection") is None
    server.terminate()
    assert len(response.read()) == 10_000
    # Its headers were out when the drain began, so nobody has announced a close: one more request is served.
    client.request("GET", "/")
    response = client.getresponse()
    assert response.getheader("Connection") == "close"
    response.read()
    client.close()
    assert server.wait() == 0


def test_websockets_are_told(start: Start) -> None:
    server = start(SAMPLE, "--drain-timeout", "8").ready()
    sockets = [WebSocket(server).handshake() for _ in range(30)]
    for websocket in sockets:
        websocket.echo("hello")
    assert server.status()["websockets"] == 30
    assert server.status()["connections"] == 30
    begin = time.monotonic()
    server.terminate()

    def closed(websocket: WebSocket) -> tuple[float, tuple[int, str]]:
        told = websocket.wait_for_close()
        return time.monotonic() - begin, told

    with ThreadPoolExecutor(30) as pool:
        results = list(pool.map(closed, sockets))
    assert {told for _, told in results} == {(1012, "service restart")}
    times = sorted(passed for passed, _ in results)
    # 20 per second: neither all at once nor spread over more than half of the drain time.
    assert times[-1] - times[0] > 0.5
    assert times[-1] < 6
    assert server.wait() == 0
    assert "connections cut" not in server.log


def test_a_websocket_that_is_being_opened_is_opened_and_told(server: Eyewall) -> None:
    early = WebSocket(server, "/echo?seconds=1")
    until(lambda: server.status()["requests_in_flight"] == 1)
    server.terminate()
    early.handshake()
    assert early.wait_for_close() == (1012, "service restart")
    assert server.wait() == 0


def test_a_websocket_that_is_opened_on_a_kept_alive_connection_is_told(server: Eyewall) -> None:
    connection = server.connect()
    connection.sendall(GET)
    receive_answer(connection)
    server.terminate()
    late = WebSocket(server, connection=connection).handshake()
    assert late.wait_for_close() == (1012, "service restart")
    assert server.wait() == 0


@pytest.mark.parametrize("path", ["/slow?seconds=1", "/echo?seconds=1"])
def test_an_upgrade_that_is_not_taken_is_told_to_close_like_everybody(server: Eyewall, path: str) -> None:
    """A handler that ignores it, and a WebSocket's that refuses it; before the drain begins, and after."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".encode()
    with server.connect() as before, server.connect() as after:
        after.sendall(GET)
        receive_answer(after)
        before.sendall(request)
        until(lambda: server.status()["requests_in_flight"])
        server.terminate()
        after.sendall(request)
        for connection in (before, after):
            assert "Connection: close" in receive_answer(connection)[0]
            assert connection.recv(1) == b""
    assert server.wait() == 0


def test_a_websocket_client_that_never_answers_is_cut_in_time(start: Start) -> None:
    server = start(SAMPLE, "--drain-timeout", "2").ready()
    websocket = WebSocket(server).handshake()
    server.terminate()
    assert isinstance(websocket.receive(), CloseConnection)
    assert server.wait(10) == 0
    assert "1 connections cut" in server.log
    websocket.close()


def test_the_drain_time_is_honoured(start: Start) -> None:
    server = start(SAMPLE, "--drain-timeout", "1").ready()
    with server.connect() as connection:
        connection.sendall(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.logged("slow begins")
        begin = time.monotonic()
        server.terminate()
        assert server.wait() == 0
        assert 0.9 < time.monotonic() - begin < 10
    assert "1 connections cut, requests in flight: 1" in server.log


def test_connections_are_cut_in_time_though_a_thread_is_busy(start: Start) -> None:
    server = start(SAMPLE, "--drain-timeout", "1").ready()
    with server.connect() as connection:
        connection.sendall(b"GET /thread HTTP/1.1\r\nHost: x\r\n\r\n")
        server.logged("thread begins")
        begin = time.monotonic()
        server.terminate()
        assert connection.recv(1) == b""
        assert time.monotonic() - begin < 2.5
    assert server.wait() == 0


def test_a_second_sigterm_exits_at_once(server: Eyewall) -> None:
    with server.connect() as connection:
        connection.sendall(b"GET /slow?seconds=60 HTTP/1.1\r\nHost: x\r\n\r\n")
        server.logged("slow begins")
        server.terminate()
        server.send(signal.SIGTERM)
        assert server.wait(10) == 128 + signal.SIGTERM
    assert "second SIGTERM" in server.log


def test_a_process_that_is_asked_drains_and_waits_for_its_signal(server: Eyewall) -> None:
    with server.connect() as connection:
        connection.sendall(POST)
        receive_answer(connection)
        assert ask_admin(server.admin, "/drain", "POST")[0] == 200
        connection.sendall(POST)
        assert "Connection: close" in receive_answer(connection)[0]
    server.ask_to_drain()
    assert "drain starts (asked on the admin socket)" in server.log
    assert server.process.poll() is None
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert server.log.count("drain ends") == 1


def test_sigint_drains_too(server: Eyewall) -> None:
    server.send(signal.SIGINT)
    assert server.wait() == 0
    assert "drain starts (SIGINT)" in server.log


@pytest.mark.parametrize("loop", [[], ["--no-uvloop"]], ids=["uvloop", "asyncio"])
def test_a_handover_loses_nothing(start: Start, loop: list[str]) -> None:
    old = start(SAMPLE, *loop).ready()
    with Posters(old.port) as posters:
        until(lambda: len(posters.answered) > 200)
        new = start(SAMPLE, *loop, port=old.port).ready()
        until(lambda: new.process.pid in posters.answered, "an answer from the successor")
        old.send(signal.SIGTERM)
        assert old.wait() == 0
        enough = len(posters.answered) + 200
        until(lambda: len(posters.answered) > enough)
    assert posters.lost == []
    assert set(posters.answered) == {old.process.pid, new.process.pid}
    assert posters.answered[-1] == new.process.pid


def test_the_same_client_sees_the_loss_when_the_old_process_is_killed(start: Start) -> None:
    """The negative control of the test above."""
    old = start().ready()
    with Posters(old.port) as posters:
        new = start(SAMPLE, port=old.port).ready()
        until(lambda: {old.process.pid, new.process.pid} <= set(posters.answered))
        old.send(signal.SIGKILL)
        old.wait()
        enough = len(posters.answered) + 200
        until(lambda: len(posters.answered) > enough)
    assert len(posters.lost) > 0


def test_a_process_that_drains_alone_answers_all_that_it_accepted(server: Eyewall) -> None:
    """Without a successor a client is refused, which a proxy answers by trying another; nothing is reset."""
    with Posters(server.port) as posters:
        until(lambda: len(posters.answered) > 100)
        server.send(signal.SIGTERM)
        assert server.wait() == 0
    assert {text.partition("(")[0] for text in posters.lost} <= {"ConnectionRefusedError"}


def test_a_client_that_leaves_does_not_hold_the_drain_up(server: Eyewall) -> None:
    connection = server.connect()
    connection.sendall(b"GET /slow?seconds=3 HTTP/1.1\r\nHost: x\r\n\r\n")
    server.logged("slow begins")
    server.terminate()
    connection.shutdown(socket.SHUT_RDWR)
    connection.close()
    assert server.wait(2.5) == 0


def test_admin_socket_is_gone_afterwards(server: Eyewall) -> None:
    assert server.admin.exists()
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert list(server.admin.parent.glob("*.sock")) == []
