"""A site with TLS on containers, and what a client of it is shown."""

import contextlib
import http.client
import json
import socket
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support import REPOSITORY
from support.fleet import Fleet, Run

RATE = 40.0  # quick requests per second
NAME = "site.localhost"
PORTS = {"lb1": (8180, 8280), "lb2": (8181, 8281), "lb3": (8184, 8284), "own": (8185, 8285)}
SITE_CA = REPOSITORY / ".local" / "tls"
ROOT = """
import ssl, urllib.request
trusting = ssl._create_unverified_context()
print(urllib.request.urlopen("https://localhost:15000/roots/0", context=trusting).read().decode())
"""
# Where pebble's DNS has every name.
POINT = """
import json, sys, urllib.request
urllib.request.urlopen("http://127.0.0.1:8055/set-default-ipv4", json.dumps({"ip": sys.argv[1]}).encode())
"""


@dataclass(frozen=True)
class Shown:
    """A certificate that a client has trusted, and the protocol of the connection."""

    serial: str
    issuer: str
    names: frozenset[str]
    version: str
    protocol: str | None


def context(ca: Path) -> ssl.SSLContext:
    """Trusts this CA alone, and speaks what browsers do."""
    found = ssl.create_default_context(cafile=str(ca))
    found.set_alpn_protocols(["h2", "http/1.1"])
    return found


def shown(port: int, name: str, ca: Path) -> Shown:
    """What is shown on 127.0.0.1 to who asks for a name. Raises `ssl.SSLCertVerificationError`."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=20) as plain,
        context(ca).wrap_socket(plain, server_hostname=name) as tls,
    ):
        peer = tls.getpeercert() or {}
        issuer = dict(part for group in peer["issuer"] for part in group)  # type: ignore[misc, union-attr]
        names = frozenset(value for _, value in peer["subjectAltName"])  # type: ignore[misc]
        return Shown(
            str(peer["serialNumber"]), issuer["commonName"], names, tls.version() or "", tls.selected_alpn_protocol()
        )


def get(port: int, name: str, path: str = "/", ca: Path | None = None) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by lower-case name and body of an answer over HTTP/1.1, over TLS if there is a CA to trust."""
    connection: http.client.HTTPConnection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    if ca:
        trusting = ssl.create_default_context(cafile=str(ca))
        connection.sock = trusting.wrap_socket(
            socket.create_connection(("127.0.0.1", port), timeout=20), server_hostname=name
        )
    try:
        connection.request("GET", path, headers={"Host": name})
        answer = connection.getresponse()
        return answer.status, {key.lower(): value for key, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


class Site(Fleet):
    """The fleet, with its certificates."""

    def __init__(self, scenario: str, scratch: Path, name: str = NAME) -> None:
        super().__init__(scenario, scratch)
        self.site = name

    def trusted(self) -> Path:
        """A file with every CA that this site may have a certificate of: pebble has another root after each start."""
        path = self.scratch / "trusted.pem"
        known = path.read_text() if path.exists() else (SITE_CA / "ca.pem").read_text()
        with contextlib.suppress(AssertionError):  # it is down
            root = self.sh("ca", "python3 -c %s", ROOT).strip() + "\n"
            known += root if root not in known else ""
        path.write_text(known)
        return path

    def over_tls(self, *hosts: str) -> dict[str, str]:
        """Front doors, as `proof` takes them."""
        return {host: f"https://{self.site}:{PORTS[host][1]}" for host in hosts}

    def shown(self, host: str, name: str = "") -> Shown:
        """What a client is shown on a new connection, once it has trusted it."""
        return shown(PORTS[host][1], name or self.site, self.trusted())

    def certificate(self, host: str) -> dict[str, Any]:
        """What eyewall-certificates says of the one certificate of a host."""
        (found,) = json.loads(self.sh(host, "eyewall-certificates status"))
        assert isinstance(found, dict)
        return found

    def renew(self, host: str, *words: str) -> Run:
        done = self.host(host).run(" ".join(["eyewall-certificates renew", *words]))
        return Run(done.rc, done.stderr)

    @contextlib.contextmanager
    def challenged_at(self, host: str) -> Iterator[None]:
        """The CA looks for every answer on this host, while the block runs."""

        def point(at: str) -> None:
            address = self.sh("ca", "getent ahostsv4 %s", at).split()[0]
            self.sh("ca", "python3 -c %s %s", POINT, address)

        point(host)
        try:
            yield
        finally:
            point("lb1")
