"""What users get: a certificate that they trust, HTTP/2, and no plain text."""

import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from support.tls import NAME, PORTS, Site, get

Calm = Callable[..., AbstractContextManager[None]]


def test_each_balancer_has_a_certificate_of_its_own(site: Site) -> None:
    found = {host: site.shown(host) for host in ("lb1", "lb2")}
    for one in found.values():
        assert one.issuer.startswith("Pebble Intermediate CA")
        assert one.names == {NAME, f"www.{NAME}"}
        assert (one.version, one.protocol) == ("TLSv1.3", "h2")
    # the CA asked lb1 for both
    assert found["lb1"].serial != found["lb2"].serial
    keys = {site.sh(host, "openssl pkey -in /etc/haproxy/certificates/testapp.pem -pubout") for host in found}
    assert len(keys) == 2


def test_keys_are_roots_and_the_client_sees_none_of_them(site: Site) -> None:
    assert site.sh(
        "lb2", "stat -c '%U %a' /etc/haproxy/certificates /etc/haproxy/certificates/testapp.pem"
    ).split() == ["root", "700", "root", "600"]
    assert site.sh("lb2", "stat -c '%U %a' /etc/eyewall/acme-account.key").split() == ["eyewall-acme", "400"]
    denied = site.host("lb2").run(
        "setpriv --reuid=eyewall-acme --regid=eyewall-acme --clear-groups cat /etc/haproxy/certificates/testapp.pem"
    )
    assert denied.rc and "denied" in denied.stderr


def test_plain_text_is_sent_to_tls_but_for_challenges(site: Site) -> None:
    status, headers, _ = get(PORTS["lb1"][0], NAME, "/echo?text=1")
    assert (status, headers["location"]) == (308, f"https://{NAME}/echo?text=1")
    status, headers, body = get(PORTS["lb2"][0], NAME, "/.well-known/acme-challenge/some_Token-1")
    assert status == 200 and re.fullmatch(rb"some_Token-1\.[A-Za-z0-9_-]{43}", body)
    assert get(PORTS["lb2"][0], NAME, "/.well-known/acme-challenge/../x")[0] == 308
    # another name is none of the site's, here too
    assert get(PORTS["lb1"][0], "other.localhost")[0] == 421


def test_over_tls_the_application_knows_it_and_browsers_remember_it(site: Site, calm: Calm) -> None:
    def change(source: Path) -> None:
        program = source / "src" / "testapp" / "application.py"
        text = program.read_text(encoding="utf-8")
        says = '"pid": str(os.getpid()),'
        assert says in text
        program.write_text(text.replace(says, f'{says} "scheme": self.request.protocol,'), encoding="utf-8")

    with calm("lb1", "lb2"):
        deployed = site.deploy("tells.scheme", change=change)
        assert deployed.status == 0, deployed.output
    status, headers, body = get(PORTS["lb1"][1], NAME, "/echo?text=1", site.trusted())
    assert status == 200 and json.loads(body)["scheme"] == "https"
    assert headers["strict-transport-security"] == "max-age=300"


def test_status_and_the_playbook_show_every_certificate(site: Site) -> None:
    for playbook in ("status", "certificates"):
        said = site.play(playbook)
        assert said.status == 0, said.output
        for host in ("lb1", "lb2"):
            serial = site.certificate(host)["serial"][-8:].lower()
            assert re.search(
                rf"{host} +testapp +{NAME}, www\.{NAME} +acme +CN=Pebble Intermediate CA \w+ +{serial} ", said.output
            ), said.output


def test_hosts_know_balancers_by_a_certificate_and_the_other_way_round(site: Site) -> None:
    address = site.sh("lb1", "getent ahostsv4 app1").split()[0]
    url = f"--resolve app1:443:{address} --header 'Host: {NAME}' https://app1/echo?text=1"
    known = f"curl --silent --output /dev/null --write-out %{{http_code}} --cacert /etc/eyewall/site-ca.pem {url}"

    def status(more: str) -> str:
        return site.host("lb1").run(f"{known} {more}").stdout

    assert status("--cert /etc/eyewall/inner.pem") == "200"
    assert status("") == "400", "who shows no certificate gets nothing"
    assert status("--cert /etc/haproxy/certificates/testapp.pem") == "400", "nor who has one of another CA"
    assert site.host("lb1").run(known.replace("site-ca.pem", "acme-ca.pem")).rc == 60, (
        "a host without the site's is not believed"
    )
    # every request of a user came this way
    assert "ssl verify required verifyhost app1" in site.sh("lb1", "cat /etc/haproxy/haproxy.cfg")
