"""eyewall-certificates, with a real openssl and a real HAProxy: what is installed, what stays, and what a killed run leaves."""

import importlib.util
import json
import socket
import ssl
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.product import ROLES, load_yaml, render
from support.tls import shown
from support.tls_door import HAPROXY, TLSDoor

pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed")
PROGRAM = ROLES / "certificates" / "files" / "eyewall_certificates.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("eyewall_certificates", PROGRAM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["eyewall_certificates"] = module  # dataclasses look for it there
    spec.loader.exec_module(module)
    return module


program = load()


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TLSDoor]:
    door = TLSDoor(tmp_path_factory.mktemp("door"), 9)
    yield door
    door.stop()


class Front:
    """A front door and what eyewall-certificates does with it."""

    def __init__(self, door: TLSDoor, acme: dict[str, str] | None = None) -> None:
        self.door = door
        state = door.folder / "state"
        state.mkdir(exist_ok=True)
        config = door.folder / "certificates.json"
        config.write_text(
            json.dumps({"directory": str(door.folder), "state": str(state), "socket": str(door.socket), "acme": acme,
                        "certificates": [{"name": "board", "names": ["localhost"]}]})
        )  # fmt: skip
        self.site = program.Site(config)
        self.wanted = self.site.wanted[0]

    def install(self, pem: str, source: str = "files", **more: str) -> bool:
        changed: bool = program.install(self.site, self.wanted, pem.encode(), source, **more)
        return changed

    def shown(self) -> str:
        """The serial number that a new connection is shown."""
        return shown(self.door.port, "localhost", self.door.ca).serial.upper()

    def on_disk(self) -> str:
        return str(program.read(self.door.pem).serial)


@pytest.fixture
def front(door: TLSDoor) -> Front:
    front = Front(door)
    front.install(door.issue())
    return front


def test_new_connections_see_what_was_installed_and_old_ones_go_on(front: Front) -> None:
    before = front.shown()
    trusting = ssl.create_default_context(cafile=str(front.door.ca))

    with trusting.wrap_socket(
        socket.create_connection(("127.0.0.1", front.door.port)), server_hostname="localhost"
    ) as old:
        assert front.install(front.door.issue())
        old.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert old.recv(100).startswith(b"HTTP/1.1 503"), "it is answered: there is no server behind this door"
    assert front.shown() == front.on_disk() != before
    assert stat.S_IMODE(front.door.pem.stat().st_mode) == 0o600


def test_the_same_again_changes_nothing(front: Front) -> None:
    pem = front.door.pem.read_text()
    assert not front.install(pem)


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda door: door.issue("other.example"), "got a certificate without localhost"),
        (lambda door: door.issue().partition("-----BEGIN CERTIFICATE")[0], "got no certificate with its key"),
        (lambda door: door.issue().split("-----END PRIVATE KEY-----\n")[1], "got no certificate with its key"),
        (
            lambda door: (
                door.issue().split("-----BEGIN CERTIFICATE")[0]
                + "-----BEGIN CERTIFICATE"
                + door.issue().split("-----BEGIN CERTIFICATE", 1)[1]
            ),
            "got a key that is not the certificate's",
        ),
    ],
)
def test_what_cannot_be_served_is_refused_and_the_old_one_stays(
    front: Front, spoil: Callable[[TLSDoor], str], reason: str
) -> None:
    before = front.shown()
    with pytest.raises(program.CertificateError, match=reason):
        front.install(spoil(front.door))
    assert front.shown() == front.on_disk() == before
    assert not front.wanted.incoming.exists()


@pytest.mark.parametrize(("days", "reason"), [(-2, "is valid from"), (400, "expired on")])
def test_a_wrong_clock_replaces_nothing(front: Front, monkeypatch: pytest.MonkeyPatch, days: int, reason: str) -> None:
    before, now = front.shown(), time.time()
    monkeypatch.setattr(program.time, "time", lambda: now + days * 86400)
    with pytest.raises(program.CertificateError, match=reason):
        front.install(front.door.issue())
    assert front.shown() == front.on_disk() == before


class Killed(BaseException):
    """What a SIGKILL leaves behind: nothing is cleaned up."""


@pytest.mark.slow
@pytest.mark.parametrize("step", ["write", "give", "rename", "sync", "note"])
@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_is_killed_at_any_step_is_completed_by_the_next(
    front: Front, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    owner: Any = {"rename": Path, "note": front.site}.get(step, program)
    real = getattr(owner, step)

    def killed(*given: Any, **named: Any) -> Any:
        if after:
            real(*given, **named)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, killed)
        # nor is what was being written removed
        patch.setattr(Path, "unlink", lambda *_given, **_named: None)
        with pytest.raises(Killed):
            front.install(front.door.issue())
    assert front.shown(), "one that is trusted is served"
    program.complete(front.site, front.wanted)
    assert front.shown() == front.on_disk()
    assert not front.wanted.incoming.exists()
    assert front.install(front.door.issue())
    assert front.shown() == front.on_disk()


def test_a_reload_in_the_middle_is_noticed(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    """A HAProxy that was reloaded before the file had its new content serves that of before."""
    old = front.door.pem.read_text()
    real = Path.rename

    def reloaded(path: Path, target: Path) -> Path:
        if target == front.wanted.path:
            program.give(front.site, target, old)
        return real(path, target)

    monkeypatch.setattr(Path, "rename", reloaded)
    assert front.install(front.door.issue())
    assert front.shown() == front.on_disk()


# ---- When a certificate is due ----


def acme_front(door: TLSDoor) -> Front:
    front = Front(
        door, {"directory": "https://ca.example/dir", "account": "nobody", "key": "/k", "ca": "", "email": ""}
    )
    front.install(door.issue(), "acme", directory="https://ca.example/dir")
    return front


def test_a_certificate_is_due_after_two_thirds_of_its_life(door: TLSDoor) -> None:
    front = acme_front(door)
    leaf = program.read(door.pem)
    life = leaf.not_after - leaf.not_before

    def due(share: float) -> str | None:
        found: str | None = program.due(front.site, front.wanted, leaf.not_before + share * life)
        return found

    assert due(0.5) is due(0.66) is None
    assert due(0.67) == "two thirds of its life are over"
    # however long it is
    six_days = program.Leaf("F", "1", "CN=x", 0, 6 * 86400, ())
    assert six_days.renewal == 4 * 86400


def test_a_certificate_of_another_source_or_without_a_name_is_due(door: TLSDoor) -> None:
    front = acme_front(door)
    front.site.note(front.wanted, source="self_signed 1234")
    assert program.due(front.site, front.wanted, time.time()) == "it is not from this CA"
    front.site.note(front.wanted, source="acme", directory="https://ca.example/dir")
    more = program.Wanted("board", ("localhost", "new.example"), front.wanted.path, front.wanted.record)
    assert program.due(front.site, more, time.time()) == "it is without new.example"
    door.pem.write_text("damaged")
    assert "got no certificate with its key" in program.due(front.site, front.wanted, time.time())


@pytest.mark.slow
def test_a_failed_try_is_repeated_later_each_time(door: TLSDoor, monkeypatch: pytest.MonkeyPatch) -> None:
    front = acme_front(door)
    front.site.note(front.wanted, source="files")
    now = [time.time()]
    monkeypatch.setattr(program.time, "time", lambda: now[0])

    def refused(*_: Any) -> None:
        raise program.CertificateError("no")

    monkeypatch.setattr(program, "from_ca", refused)
    pauses = []
    for _ in range(6):
        (sentence,) = program.renew(front.site, retry=False, force=False)
        assert sentence == "board: got no certificate from https://ca.example/dir: no. What is served stays."
        pauses.append(front.site.record(front.wanted)["next_try"] - now[0])
        now[0] += pauses[-1] - 1
        assert program.renew(front.site, retry=False, force=False) == [], "not before its time"
        now[0] += 1
    assert pauses == [3600, 7200, 14400, 28800, 43200, 43200]
    # who asks for it gets one
    assert len(program.renew(front.site, retry=True, force=False)) == 1
    told = program.told(front.site, front.wanted, now[0])
    assert any("got no new one from https://ca.example/dir on " in problem for problem in told["problems"])
    assert 'eyewall_certificate_failed_renewals{certificate="board"} 7' in program.metrics([told])


def test_less_than_a_fifth_of_a_life_is_a_problem(front: Front) -> None:
    leaf = program.read(front.door.pem)
    life = leaf.not_after - leaf.not_before
    assert program.told(front.site, front.wanted, leaf.not_after - 0.21 * life)["problems"] == []
    (problem,) = program.told(front.site, front.wanted, leaf.not_after - 0.19 * life)["problems"]
    assert "expected a fifth of its life or more" in problem
    (problem,) = program.told(front.site, front.wanted, leaf.not_after + 1)["problems"]
    assert "got a certificate that expired on" in problem


def test_what_the_site_has_no_more_is_removed(front: Front) -> None:
    old = front.site.directory / "chat.pem"
    old.touch()
    assert program.prune(front.site) and not old.exists() and front.door.pem.exists()
    assert not program.prune(front.site)


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        (
            "Traceback\n  File x\nValueError: Error creating new order:\nUrl: u Response Code: 429\n",
            "Error creating new order: Url: u Response Code: 429",
        ),
        ("Traceback\nOSError: b'Could not find private key from /k\\n'\n", "Could not find private key from /k"),
        (
            "Traceback\nOSError: OpenSSL Error\nb'Could not open /k\\n40B:error:16\\n'\n",
            "OpenSSL Error Could not open /k",
        ),
        ("", "no reason"),
    ],
)
def test_what_the_client_says_becomes_a_line(stderr: str, said: str) -> None:
    assert program.reason(stderr) == said


def test_the_service_may_write_where_the_program_does() -> None:
    unit = render("certificates/etc/systemd/system/eyewall-certificates.service.j2")
    paths = {"/etc/haproxy/certificates", "/var/lib/eyewall-certificates", "-/var/lib/prometheus/node-exporter"}
    assert paths <= set(
        next(line for line in unit.splitlines() if line.startswith("ReadWritePaths=")).partition("=")[2].split()
    )
    config = load_yaml(ROLES / "certificates" / "vars" / "main.yml")["__certificates_config"]
    assert config["state"] == "/var/lib/eyewall-certificates"
