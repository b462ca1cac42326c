"""A front door is added under traffic, and a host becomes its own."""

from collections.abc import Callable
from contextlib import AbstractContextManager

from support import REPOSITORY
from support.tls import PORTS, SITE_CA, Site, get

Calm = Callable[..., AbstractContextManager[None]]
THIRD = str(REPOSITORY / "molecule" / "inventory" / "tls_third.yml")


def test_a_third_balancer_is_added_under_traffic(site: Site, calm: Calm) -> None:
    # its challenges are asked for at the first one, which has been there all the time
    with calm("lb1", "lb2"):
        said = site.play("site", "-i", THIRD)
        assert said.status == 0, said.output
    assert site.shown("lb3").issuer.startswith("Pebble")
    assert get(PORTS["lb3"][1], site.site, "/echo?text=1", site.trusted())[0] == 200


def test_a_host_becomes_its_own_front_door(own: Site, site: Site, calm: Calm) -> None:
    said = own.play("site")
    assert said.status == 0, said.output
    assert get(PORTS["own"][0], own.site, "/echo?text=1")[0] == 200
    assert own.host("own").run("systemctl is-active haproxy").rc, "without TLS, nginx is the front door"

    said = own.play("site", site_tls="self_signed")
    assert said.status == 0, said.output
    ca = SITE_CA / "ca.pem"
    assert get(PORTS["own"][0], own.site, "/echo?text=1")[0] == 308
    assert get(PORTS["own"][1], own.site, "/echo?text=1", ca)[0] == 200
    assert own.shown("own").names == {own.site}
    listening = own.sh("own", "ss -Hltn 'sport = :7080'")
    assert "127.0.0.1:7080" in listening and len(listening.splitlines()) == 1, listening
    again = own.play("site", site_tls="self_signed")
    assert (again.status, again.changed()) == (0, 0), again.output

    # another number of processes reloads nginx, which loses requests at its own door (2 of 38,219), and none behind HAProxy
    with calm("own", of=own):
        said = own.play("deploy", site_tls="self_signed", tornado_app_processes=3)
        assert said.status == 0, said.output
    said = own.play("status", site_tls="self_signed", tornado_app_processes=3)
    assert said.status == 0, said.output
