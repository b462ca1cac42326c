"""Floods over HTTP/2 from one client cost that client its connection or an answer, and its neighbours nothing."""

import contextlib
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from hyperframe.frame import ContinuationFrame, HeadersFrame, RstStreamFrame, SettingsFrame
from support import REPOSITORY
from support.runner import Eyewall
from support.tls import get
from support.tls_door import HAPROXY, TLSDoor

pytestmark = [pytest.mark.slow, pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")]
TESTAPP = REPOSITORY / "tests" / "apps" / "testapp" / "src" / "testapp"
SECONDS = 3.0
ATTACKERS = 4
# HPACK of :method GET, :scheme https, :path /, and :authority x (RFC 7541, appendix A).
ASK = b"\x82\x87\x84\x41\x01x"


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSDoor]:
    code = tmp_path_factory.mktemp("code")
    shutil.copytree(TESTAPP, code / "testapp")
    server = Eyewall(code, "testapp:make_app", "--release", "1.0.0").ready()
    door = TLSDoor(tmp_path_factory.mktemp("door"), server.port)
    yield door
    door.stop()
    server.kill()


def connected(door: TLSDoor) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=str(door.ca))
    context.set_alpn_protocols(["h2"])
    # a client of its own: limits are per address
    plain = socket.create_connection(("127.0.0.1", door.port), timeout=5, source_address=("127.0.0.2", 0))
    tls = context.wrap_socket(plain, server_hostname="localhost")
    assert tls.selected_alpn_protocol() == "h2"
    tls.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SettingsFrame(0).serialize())
    return tls


def rapid_reset(number: int) -> bytes:
    """Ask, and reset at once (CVE-2023-44487)."""
    stream = 2 * number + 1
    return (
        HeadersFrame(stream, ASK, flags=["END_HEADERS", "END_STREAM"]).serialize()
        + RstStreamFrame(stream, 8).serialize()
    )


def continuation(number: int) -> bytes:
    """A head that never ends (CERT VU#421644)."""
    if number == 0:
        return HeadersFrame(1, ASK, flags=["END_STREAM"]).serialize()
    return ContinuationFrame(1, b"\x00\x01a\x7f\x80\x01" + b"b" * 255).serialize()


def header_list(number: int) -> bytes:
    """A head of some KB that is a megabyte when it is unpacked: one long field, named again and again."""
    field = b"\x40\x01a\x7f\x81\x1e" + b"b" * 4000
    return HeadersFrame(2 * number + 1, ASK + field + b"\xbe" * 4000, flags=["END_HEADERS", "END_STREAM"]).serialize()


def attack(door: TLSDoor, frame: Callable[[int], bytes], until: float, closed: list[int]) -> None:
    while time.monotonic() < until:
        with contextlib.suppress(OSError), connected(door) as tls:
            tls.settimeout(5)
            for number in range(1_000_000):
                tls.sendall(frame(number))
                if time.monotonic() > until:
                    return
        closed.append(1)


def neighbour(door: TLSDoor, until: float) -> list[float]:
    """Seconds of each of a neighbour's requests, each of which has to be answered."""
    times = []
    while time.monotonic() < until:
        begun = time.monotonic()
        assert get(door.port, "localhost", "/echo?text=1", door.ca)[0] == 200
        times.append(time.monotonic() - begun)
        time.sleep(0.02)
    return times


@pytest.mark.parametrize("frame", [rapid_reset, continuation, header_list])
def test_a_flood_harms_nobody_else(door: TLSDoor, frame: Callable[[int], bytes]) -> None:
    until, closed = time.monotonic() + SECONDS, list[int]()
    attackers = [threading.Thread(target=attack, args=(door, frame, until, closed)) for _ in range(ATTACKERS)]
    for one in attackers:
        one.start()
    times = neighbour(door, until)
    for one in attackers:
        one.join()
    # without haproxy_client_request_rate there were three, and the longest took 2.5 s
    assert len(times) > 10
    if frame is not rapid_reset:
        assert closed, "HAProxy closes the connection of who sends that"
    assert door.process.poll() is None
    assert get(door.port, "localhost", "/echo?text=1", door.ca)[0] == 200


def test_the_control_the_frames_are_what_they_say(door: TLSDoor) -> None:
    """The same request without what makes it a flood is answered."""
    with connected(door) as tls:
        tls.sendall(HeadersFrame(1, ASK, flags=["END_HEADERS", "END_STREAM"]).serialize())
        tls.settimeout(5)
        came = b""
        while b"text/html" not in came and len(came) < 100_000:
            came += tls.recv(65536)
        assert came
