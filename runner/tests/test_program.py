"""Programs that nobody changed."""

import ast
import http.client
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.net import UnixConnection, free_port
from support.runner import TESTS, Eyewall, Posters, WebSocket, receive_answer, refused, sentence
from support.waiting import until

pytestmark = pytest.mark.slow

Start = Callable[..., Eyewall]
PROGRAM = str(TESTS / "eyewall_program.py")


def hand_over(start: Start, *options: str, program: str) -> Eyewall:
    """Start a program twice on one port, tell the first to stop, and return it; no request may be lost."""
    old = start(PROGRAM, *options, program=[program]).ready()
    with Posters(old.port, threads=4) as posters:
        until(lambda: len(posters.answered) > 20)
        new = start(PROGRAM, *options, program=[program], port=old.port).ready()
        until(lambda: new.process.pid in posters.answered, "an answer from the successor")
        old.send(signal.SIGTERM)
        assert old.wait() == 0, old.log
        enough = len(posters.answered) + 20
        until(lambda: len(posters.answered) > enough)
    assert posters.lost == []
    assert set(posters.answered) == {old.process.pid, new.process.pid}
    assert posters.answered[-1] == new.process.pid
    assert "Traceback" not in old.log
    return old


def order(log: str) -> list[str]:
    """Return what the program said, and when its drain ended."""
    return re.findall(r"drain ends|(?<=^program: ).*", log, re.MULTILINE)


@pytest.mark.parametrize(
    ("program", "options", "wanted"),
    [
        ("listen", [], ["drain ends", "finally"]),
        ("handler", [], ["drain ends", "own handler", "finally", "atexit"]),
        ("loop_handler", [], ["drain ends", "own handler", "finally", "after the loop"]),
        ("loop_handler", ["--no-uvloop"], ["drain ends", "own handler", "finally", "after the loop"]),
        ("asyncio_run", [], ["drain ends", "finally"]),
    ],
)
def test_a_handover_loses_nothing(start: Start, program: str, options: list[str], wanted: list[str]) -> None:
    assert order(hand_over(start, *options, program=program).log) == wanted


def test_a_handover_of_sockets_loses_nothing(start: Start) -> None:
    old = hand_over(start, program="sockets")
    assert order(old.log) == [f"has ('127.0.0.1', {old.port})", "drain ends", "finally"]
    assert "asks for port 8888, and gets 127.0.0.1:" in old.log


def told(server: Eyewall, what: str) -> str:
    """Wait until the program has said `what` and something behind it, which is returned."""
    return server.logged(f"program: {what} ").partition(f"{what} ")[2]


@pytest.mark.parametrize("program", ["admin_on_unix", "admin_on_any_port"])
def test_a_second_application_is_where_it_asked_to_be_and_never_on_the_port(
    start: Start, tmp_path: Path, program: str
) -> None:
    """Control: the server of this test before had served the second one to the public, as the last that listened."""
    server = start(PROGRAM, program=[program]).ready()
    # as many connections as there were chances that the other one accepts
    assert {server.get()["pid"] for _ in range(40)} == {server.process.pid}
    if program == "admin_on_unix":
        path = tmp_path / "admin.own"
        assert path.stat().st_mode & 0o777 == 0o660
        client: http.client.HTTPConnection = UnixConnection(path)
    else:
        port = ast.literal_eval(told(server, "admin at"))[0][1]
        assert port != server.port
        client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        table = Path("/proc/net/tcp").read_text().splitlines()
        assert [line.split()[1] for line in table if f":{port:04X} 00000000:0000 0A" in line] == [
            f"0100007F:{port:04X}"
        ]
    client.request("GET", "/")
    assert client.getresponse().read() == b"for operators alone"
    client.close()
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert not (tmp_path / "admin.own").exists()


def test_what_is_proved_takes_no_path_from_what_serves(start: Start, tmp_path: Path) -> None:
    start(PROGRAM, program=["admin_on_unix"]).ready()
    inode = (tmp_path / "admin.own").stat().st_ino
    proof = start(PROGRAM, "--address", f"unix:{tmp_path}/proof.http", program=["admin_on_unix"]).ready()
    assert (tmp_path / "admin.own").stat().st_ino == inode
    proof.send(signal.SIGTERM)
    assert proof.wait() == 0
    assert (tmp_path / "admin.own").stat().st_ino == inode


def test_a_class_derived_from_httpserver(start: Start) -> None:
    old = hand_over(start, program="subclass")
    assert "program: begins 1" in old.log
    server = start(PROGRAM, program=["subclass"]).ready()
    with server.connect() as connection:
        connection.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1001\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400 ")  # its max_body_size


def test_a_server_that_is_stopped_and_made_again(start: Start) -> None:
    server = start(PROGRAM, program=["again"]).ready()
    until(lambda: "program: is there" in server.log)
    assert server.log.count("program: is stopped") == 3
    assert {server.get()["pid"] for _ in range(20)} == {server.process.pid}
    # nobody is left who has the port and accepts nothing
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.log
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_a_small_buffer_and_proxies_that_the_program_names(start: Start) -> None:
    server = start(PROGRAM, program=["small_buffer"]).ready()
    with server.connect() as connection:
        connection.sendall(b"PUT /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n" + b"x" * 100000)
        assert receive_answer(connection)[1] == b'{"length": 100000}'
    assert server.get(headers={"X-Forwarded-For": "203.0.113.9, 192.0.2.7"})["ip"] == "203.0.113.9"
    # the control: an address that neither of the two names
    assert server.get(headers={"X-Forwarded-For": "203.0.113.9, 192.0.2.8"})["ip"] == "192.0.2.8"


def test_tls_is_for_the_proxy_in_front(start: Start) -> None:
    server = start(PROGRAM, program=["tls"]).ready()
    assert server.get()["protocol"] == "http"
    assert server.get(headers={"X-Scheme": "https"})["protocol"] == "https"
    assert "ssl_options are left out; TLS is for the proxy in front" in server.log


@pytest.mark.parametrize("program", ["own_sockets", "twice", "run_sync", "thread"])
def test_ways_to_serve(start: Start, program: str) -> None:
    server = start(PROGRAM, program=[program]).ready()
    assert {server.get()["pid"] for _ in range(20)} == {server.process.pid}
    assert server.status()["requests"] == 20
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert "Traceback" not in server.log
    with pytest.raises(ConnectionRefusedError):
        server.connect()


def test_what_a_program_is_told_is_what_python_tells_it(start: Start) -> None:
    server = start(PROGRAM, "--release", "7", program=["tells", "--port={port}", "-m", "--admin"])
    assert server.wait() == 2
    port = server.port
    assert f"program: __main__ ['tells', '--port={port}', '-m', '--admin'] {TESTS} {port}\n" in server.log
    assert "ended without a Tornado HTTPServer that listens" in server.log


def test_a_module(start: Start, tmp_path: Path) -> None:
    package = tmp_path / "board_program"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(
        "import sys\nfrom eyewall_program import listen, say\nsay(f'{__name__} {__package__} {sys.argv}')\nlisten()\n"
    )
    server = start("-m", program=["board_program", "--x={port}"]).ready()
    assert f"program: __main__ board_program ['{package}/__main__.py', '--x={server.port}']" in server.log
    assert "serving -m board_program on" in server.log
    assert server.get()["pid"] == server.process.pid


def test_a_console_script(start: Start, tmp_path: Path) -> None:
    """What `pip install` makes a command of: its metadata say so, on sys.path here."""
    metadata = tmp_path / "board_script-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: board-script\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[console_scripts]\nboard-serve = board_script:main\n")
    (tmp_path / "board_script.py").write_text(
        "import sys\nfrom eyewall_program import listen, say\n\ndef main():\n    say(f'{__name__} {sys.argv}')\n    listen()\n"
    )
    server = start("board-serve", program=["-p", "{port}"]).ready()
    script = Path(sys.executable).with_name("board-serve")
    assert f"program: board_script ['{script}', '-p', '{server.port}']" in server.log
    assert server.get()["pid"] == server.process.pid
    server.send(signal.SIGTERM)
    assert server.wait() == 0


def test_peers_that_are_not_trusted_are_not_believed_whatever_the_program_says(start: Start) -> None:
    claim = {"X-Real-Ip": "203.0.113.9", "X-Scheme": "https"}
    trusting = start(PROGRAM, program=["listen"]).ready()
    assert trusting.get(headers=claim)["ip"] == "203.0.113.9"
    other = start(PROGRAM, "--trusted", "192.0.2.1", program=["listen"]).ready()
    answer = other.get(headers=claim)
    assert (answer["ip"], answer["protocol"]) == ("127.0.0.1", "http")


def test_off_the_air(start: Start, tmp_path: Path) -> None:
    path = tmp_path / "proof.sock"
    server = start(PROGRAM, "--address", f"unix:{path}", program=["sockets"]).ready()
    client = UnixConnection(path)
    client.request("GET", "/")
    response = client.getresponse()
    assert response.status == 200
    response.read()
    client.close()
    with pytest.raises(ConnectionRefusedError):
        server.connect()
    server.send(signal.SIGTERM)
    assert server.wait() == 0
    assert list(tmp_path.glob("*.sock")) == []


def test_websockets_are_told(start: Start) -> None:
    server = start(PROGRAM, program=["twice"]).ready()
    websockets = [WebSocket(server).handshake() for _ in range(4)]
    for websocket in websockets:
        websocket.echo("hello")
    assert server.status()["websockets"] == 4
    server.terminate()
    for websocket in websockets:
        assert websocket.wait_for_close() == (1012, "service restart")
    assert server.wait() == 0


def test_a_program_that_takes_the_signal_itself_drains_when_asked(start: Start, tmp_path: Path) -> None:
    old = start(PROGRAM, "--admin", str(tmp_path / "old.sock"), program=["waits_for_a_signal"])
    old.admin = tmp_path / "old.sock"
    old.ready()
    with Posters(old.port, threads=4) as posters:
        until(lambda: len(posters.answered) > 20)
        new = start(PROGRAM, program=["waits_for_a_signal"], port=old.port).ready()
        old.ask_to_drain()
        assert "has its signal" not in old.log
        old.send(signal.SIGTERM)
        assert old.wait() == 0, old.log
        assert order(old.log) == ["drain ends", "has its signal"]
        enough = len(posters.answered) + 20
        until(lambda: len(posters.answered) > enough)
        assert posters.lost == []
        # the control: told by the signal alone, it leaves at once, and whoever is in it is lost
        new.send(signal.SIGTERM)
        assert new.wait() == 0
    assert posters.lost != []
    assert "drain" not in new.log


def test_sigint_is_passed_on_as_well(start: Start) -> None:
    server = start(PROGRAM, program=["asyncio_run"]).ready()
    server.send(signal.SIGINT)
    assert server.wait() == 0
    assert order(server.log) == ["drain ends", "finally"]


def test_a_second_sigterm_exits_at_once_while_the_program_hangs(start: Start) -> None:
    server = start(PROGRAM, program=["handler_hangs"]).ready()
    server.terminate()
    server.logged("program: own handler")
    server.send(signal.SIGTERM)
    assert server.wait(5) == 128 + signal.SIGTERM


def test_a_program_that_ends_by_itself_has_its_own_status(start: Start) -> None:
    server = start(PROGRAM, program=["stops"]).ready()
    assert server.wait() == 5
    assert not server.admin.exists()


@pytest.mark.parametrize(
    ("program", "wanted"),
    [
        ("two_ports", "listens on port 8888 and on port 8889 as well; a program may have one port"),
        ("tcp_server", "something that is no HTTPServer wants to accept from a socket of tornado.netutil.bind_sockets"),
        ("admin_on_the_same_port", "got a second application for port 8888; expected one on the port"),
        ("admin_first", "got a second application for port 8888; expected one on the port"),
        ("stranger", "__main__ wants to listen on 0.0.0.0:8888; expected Tornado's HTTPServer"),
        ("stranger_in_a_thread", "http.server wants to listen on 0.0.0.0:8888; expected Tornado's HTTPServer"),
        ("background", "got a program that goes into the background; expected one that stays in the foreground"),
        (
            "background_and_exit",
            "got a program that goes into the background; expected one that stays in the foreground",
        ),
        ("no_server", "ended without a Tornado HTTPServer that listens"),
        ("loop_before_fork", "cannot run in multiple processes: an IOLoop instance has already been initialized"),
    ],
)
def test_what_is_refused(program: str, wanted: str) -> None:
    text = refused("--port", str(free_port()), PROGRAM, program)
    # what it started may still be told to end after that
    said = re.findall(rf"(?m)^eyewall: {re.escape(PROGRAM)}: .*", text)[-1]
    assert wanted in said
    assert "program: listens" not in text


def test_a_program_that_listens_otherwise_is_ended() -> None:
    text = refused("--port", str(free_port()), "--start", "1", PROGRAM, "other_server")
    assert text.endswith(f"eyewall: {PROGRAM}: did not listen with a Tornado HTTPServer within 1 s (--start)\n")
    assert "serve_forever" in text


def test_a_program_that_raises_shows_where() -> None:
    text = refused("--port", str(free_port()), PROGRAM, "raises")
    assert text.endswith(f"eyewall: {PROGRAM}: raised RuntimeError: no database here\n")
    assert 'eyewall_program.py", line' in text


def test_a_port_that_another_program_has() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        text = refused("--port", str(port), PROGRAM, "listen").splitlines()[-1]
    assert text.startswith(f"eyewall: --port {port} on 127.0.0.1: taken by another program")


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["no_such_program.py"], "no_such_program.py: there is no such file"),
        (["-m", "no_such_package.inner"], "there is no module 'no_such_package.inner' on sys.path that can be run"),
        (["-m", "email"], "there is no module 'email' on sys.path that can be run"),
        (["-m"], "-m: got no name; expected a package or module"),
        ([], "got nothing to run"),
        (["eyewall_sample:make_app", "--backlog", "1"], "a factory takes no arguments"),
    ],
)
def test_bad_arguments(arguments: list[str], wanted: str) -> None:
    assert wanted in sentence("--port", "8000", *arguments)
