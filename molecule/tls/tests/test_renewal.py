"""Certificates are renewed under traffic, and what goes wrong meanwhile is healed by the next try."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from proof import Traffic
from support.tls import RATE, Site

Calm = Callable[..., AbstractContextManager[None]]
PEM = "/etc/haproxy/certificates/testapp.pem"
# In one process: the start of two hundred would be what is measured.
SWAPS = """
import importlib.machinery, importlib.util, sys
loader = importlib.machinery.SourceFileLoader("certificates", "/usr/local/sbin/eyewall-certificates")
module = importlib.util.module_from_spec(importlib.util.spec_from_loader("certificates", loader))
sys.modules["certificates"] = module
sys.dont_write_bytecode = True
loader.exec_module(module)
site, seen = module.Site(), set()
kept = site.wanted[0].path.read_bytes()
with site.locked():
    for number in range(200):
        assert module.install(site, site.wanted[0], open(f"/root/{number % 2}.pem", "rb").read(), "files")
        seen.add(module.served(site, site.wanted[0].path))
    module.install(site, site.wanted[0], kept, "files")
print(len(seen))
"""

LIMIT = """
import http.server, ssl

class Limit(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"type": "urn:ietf:params:acme:error:rateLimited", "detail": "too many"}'
        self.send_response(429)
        self.send_header("Retry-After", "3600")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_HEAD = do_GET

served = http.server.HTTPServer(("", 14000), Limit)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/etc/pebble/pebble.pem", "/etc/pebble/pebble.key")
served.socket = context.wrap_socket(served.socket, server_side=True)
served.serve_forever()
"""


def test_renewal_under_traffic(site: Site, calm: Calm) -> None:
    before = {host: site.shown(host).serial for host in ("lb1", "lb2")}
    keys = {site.sh(host, f"openssl pkey -in {PEM} -pubout") for host in before}
    with calm("lb1", "lb2"):
        said = site.play("certificates", renew=True)
        assert said.status == 0, said.output
        after = {host: site.shown(host).serial for host in before}
    assert all(after[host] != before[host] for host in before)
    assert not keys & {site.sh(host, f"openssl pkey -in {PEM} -pubout") for host in before}, "a new key each time"


def test_two_hundred_swaps_in_a_row(site: Site, calm: Calm, issued: list[str]) -> None:
    for number, pem in enumerate(issued):
        site.sh("lb1", f"umask 077; printf %s %s >/root/{number}.pem", "%s", pem)
    with calm("lb1"):
        assert site.sh("lb1", "python3 -c %s", SWAPS).strip() == "2"
    # by now it is none of the CA's, so the next try has another one from there
    assert site.renew("lb1").status == 0
    assert site.shown("lb1").issuer.startswith("Pebble")


def test_a_renewal_that_is_killed_at_any_moment_is_completed_by_the_next(site: Site, calm: Calm) -> None:
    with calm("lb2"):
        for step in range(14):
            site.sh(
                "lb2",
                "bash -c %s",
                f"eyewall-certificates renew --force & sleep {0.05 + step * 0.12:.2f}; kill -KILL $!; wait",
            )
            site.shown("lb2")
        healed = site.renew("lb2", "--force")
        assert healed.status == 0, healed.output
    assert site.sh("lb2", "ls -A /etc/haproxy/certificates").split() == ["testapp.pem"]
    assert site.certificate("lb2")["problems"] == []


@contextmanager
def refusing(site: Site) -> Iterator[None]:
    """A CA that answers 429 to whatever it is asked."""
    site.sh("ca", "systemctl stop pebble; systemd-run --quiet --unit=limit python3 -c %s; sleep 1", LIMIT)
    try:
        yield
    finally:
        site.sh("ca", "systemctl stop limit; systemctl start pebble; sleep 1")


@contextmanager
def down(site: Site) -> Iterator[None]:
    site.sh("ca", "systemctl stop pebble")
    try:
        yield
    finally:
        site.sh("ca", "systemctl start pebble; sleep 1")


@contextmanager
def disk_full(site: Site) -> Iterator[None]:
    site.host("lb1").run("dd if=/dev/zero of=/etc/haproxy/certificates/fill bs=4k")
    try:
        yield
    finally:
        site.sh("lb1", "rm /etc/haproxy/certificates/fill")


@contextmanager
def account_key_damaged(site: Site) -> Iterator[None]:
    site.sh("lb1", "cp -p /etc/eyewall/acme-account.key /root/kept && echo damaged >/etc/eyewall/acme-account.key")
    try:
        yield
    finally:
        site.sh("lb1", "cp -p /root/kept /etc/eyewall/acme-account.key")


FAULTS = {
    "the CA is down": (down, "Connection refused"),
    "the CA has had enough": (refusing, "429"),
    "the answer is another host's": (lambda site: site.challenged_at("app1"), "Challenge did not pass"),
    "the disk is full": (disk_full, "No space left"),
    "the key of the account is damaged": (account_key_damaged, "private key from /etc/eyewall/acme-account.key"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_served_stays_and_the_next_try_heals(site: Site, fault: str) -> None:
    broken, reason = FAULTS[fault]
    before = site.certificate("lb1")["serial"]
    with broken(site):
        said = site.renew("lb1", "--force")
        assert said.status == 1 and said.text.startswith("testapp: got no certificate from https://ca:14000/dir: "), (
            said.output
        )
        assert reason in said.text, said.output
        found = site.certificate("lb1")
        assert (found["serial"], found["served"]) == (before, found["fingerprint"]), "the old one serves"
        assert (
            any("The next try is after" in problem for problem in found["problems"]) or fault == "the disk is full"
        ), found
        # not before its time, however often the timer comes
        assert site.renew("lb1").status == 0
    healed = site.renew("lb1", "--force")
    assert healed.status == 0, healed.output
    found = site.certificate("lb1")
    assert found["serial"] != before and found["problems"] == []


def test_a_damaged_certificate_is_replaced(site: Site) -> None:
    served = site.certificate("lb1")["fingerprint"]
    site.sh("lb1", f"echo damaged >{PEM}")
    site.shown("lb1")
    (problem,) = site.certificate("lb1")["problems"]
    assert problem.startswith(f"{PEM}: got no certificate with its key")
    assert site.renew("lb1").status == 0
    found = site.certificate("lb1")
    assert found["problems"] == [] and found["served"] == found["fingerprint"] != served


def test_the_timer_asks_once_an_hour_and_after_a_boot(site: Site) -> None:
    said = site.sh(
        "lb1",
        "systemctl show eyewall-certificates.timer --property=Persistent,RandomizedDelayUSec,ActiveState,UnitFileState",
    )
    assert set(said.split()) == {
        "Persistent=yes",
        "RandomizedDelayUSec=1h",
        "ActiveState=active",
        "UnitFileState=enabled",
    }
    # what it starts runs in its sandbox, and has no complaint
    site.sh("lb1", "systemctl start eyewall-certificates.service")
    site.sh("lb1", f"echo damaged >{PEM}; systemctl start eyewall-certificates.service")
    assert site.certificate("lb1")["problems"] == []


def test_the_control_a_restart_that_hands_nothing_over_loses(site: Site) -> None:
    with Traffic(site.over_tls("lb2"), RATE, ca=site.trusted()) as traffic:
        time.sleep(2)
        site.sh("lb2", "pkill -KILL haproxy; sleep 1")
        time.sleep(2)
    assert traffic.report.lost
