"""What a host lets in: lb1 and app1 have a firewall, app2 has none and is the control.

On each a program listens that nobody was meant to reach, on every address.
"""

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml
from support.fleet import Fleet
from support.fleet_steps import Step
from support.waiting import until

DATABASE = 3306
TABLE = "nft -s list table inet eyewall"
# Whether a connection to each of these places can be made from within a host.
KNOCK = """
import concurrent.futures, json, socket, sys
def opened(place):
    try:
        socket.create_connection(place, 4).close()
        return True
    except OSError:
        return False
places = json.loads(sys.argv[1])
print(json.dumps(list(concurrent.futures.ThreadPoolExecutor(len(places)).map(opened, places))))
"""
LOCKS_OUT = {"firewall_extra_rules": ["tcp dport 22 drop"]}


@pytest.fixture(scope="module", autouse=True)
def database(fleet: Fleet, settled: Step) -> Iterator[None]:
    """Something that listens everywhere."""
    for host in ("lb1", *fleet.hosts):
        fleet.sh(host, "systemd-run --quiet --unit=database python3 -m http.server %s --bind ::", DATABASE)
    for host in ("lb1", *fleet.hosts):
        until(lambda host=host: reached(fleet, host, ["::1"], [DATABASE]), f"the program on {host}")
    yield
    for host in ("lb1", *fleet.hosts):
        fleet.host(host).run("systemctl stop database")  # a reboot has done so


def reached(fleet: Fleet, origin: str, addresses: list[str], ports: list[int]) -> set[tuple[str, int]]:
    """Which ports of which addresses can be connected to from a host."""
    places = [(address, port) for address in addresses for port in ports]
    found = json.loads(fleet.sh(origin, "python3 -c %s %s", KNOCK, json.dumps(places)))
    return {place for place, opened in zip(places, found, strict=True) if opened}


def addresses(fleet: Fleet, host: str) -> list[str]:
    """IPv4, and the IPv6 address that neighbours use: podman's network has no other ones."""
    lines = fleet.sh(host, "ip -brief address show dev eth0").split()[2:]
    four = next(line.partition("/")[0] for line in lines if "." in line)
    return [four, next(line.partition("/")[0] for line in lines if line.startswith("fe80:")) + "%eth0"]


def knocked(fleet: Fleet, origin: str, host: str) -> dict[str, set[int]]:
    """Which of the ports of a host can be connected to from another, over IPv4 and IPv6."""
    four, six = addresses(fleet, host)
    found = reached(fleet, origin, [four, six], [22, 80, DATABASE, DATABASE + 1])
    return {
        "IPv4": {port for place, port in found if place == four},
        "IPv6": {port for place, port in found if place == six},
    }


def ssh_answers(fleet: Fleet, host: str) -> bool:
    """Whether a new connection from outside gets as far as sshd."""
    inventory = yaml.safe_load(fleet.inventory.read_text(encoding="utf-8"))
    variables = {**inventory["balancers"]["hosts"], **inventory["testapp"]["hosts"]}[host]
    try:
        with socket.create_connection(("127.0.0.1", variables["ansible_port"]), 5) as connection:
            connection.settimeout(5)
            return connection.recv(4) == b"SSH-"
    except OSError:
        return False


def test_a_stranger_reaches_what_is_meant_for_him_and_nothing_else(fleet: Fleet) -> None:
    """Behind a balancer, port 80 is for that; what it may not have, it may not find out about."""
    wanted = {
        ("app2", "lb1"): {"IPv4": {22, 80}, "IPv6": {22, 80}},
        ("app2", "app1"): {"IPv4": {22}, "IPv6": {22}},
        ("lb1", "app1"): {"IPv4": {22, 80}, "IPv6": {22}},
        # the same question where there is no firewall
        ("app1", "app2"): {"IPv4": {22, 80, DATABASE}, "IPv6": {22, 80, DATABASE}},
    }
    with ThreadPoolExecutor(len(wanted)) as pool:
        found = pool.map(lambda way: knocked(fleet, *way), wanted)
    assert dict(zip(wanted, found, strict=True)) == wanted


def test_rules_that_lock_out_come_back_by_themselves(fleet: Fleet) -> None:
    """Whether Ansible is there to see it (lb1), or was killed in the middle (app1); a connection that is there proves nothing."""
    before = {host: fleet.sh(host, TABLE) for host in ("lb1", "app1")}
    seen = fleet.start("firewall", "--limit", "lb1", **LOCKS_OUT, firewall_rollback_timeout=10)
    killed = fleet.start("firewall", "--limit", "app1", **LOCKS_OUT, firewall_rollback_timeout=20)
    until(lambda: fleet.sh("app1", TABLE) != before["app1"], "the rules on trial", 120)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert not ssh_answers(fleet, "app1")
    until(lambda: fleet.sh("app1", TABLE) == before["app1"], "the rules of before", 120)
    assert ssh_answers(fleet, "app1")

    run = fleet.ended(seen)
    assert run.status == 2, run.output
    assert "lb1: no new SSH connection got in through the new rules within 10 s (" in run.text, run.output
    assert "The rules of before are in force again." in run.text, run.output
    assert fleet.sh("lb1", TABLE) == before["lb1"]
    assert ssh_answers(fleet, "lb1")


def test_check_and_diff_show_the_rules(fleet: Fleet) -> None:
    before = fleet.sh("app1", TABLE)
    run = fleet.play("firewall", "--check", "--diff", firewall_extra_services=[{"port": 9100, "from": ["10.0.0.9"]}])
    assert run.status == 0, run.output
    assert run.output.count("+        ip saddr 10.0.0.9 tcp dport 9100 accept") == 2, run.output
    assert fleet.sh("app1", TABLE) == before


def test_it_is_taken_away_alone_and_comes_again(fleet: Fleet) -> None:
    """And what somebody had done to it by hand is undone."""
    fleet.sh("app1", "nft add table inet others")
    off = fleet.play("firewall", "--limit", "app1", firewall_enabled=False)
    assert off.status == 0, off.output
    assert fleet.sh("app1", "nft list tables") == "table inet others"
    assert DATABASE in knocked(fleet, "app2", "app1")["IPv4"], "a control: it was the firewall"
    # what others reach is not closed unasked, and what is closed on purpose is named
    refused = fleet.play("firewall", "--limit", "app1")
    assert refused.status == 2, refused.output
    assert f"firewall_extra_services: got nothing for {DATABASE} (python3) of " in refused.text, refused.output
    assert fleet.sh("app1", "nft list tables") == "table inet others"
    asked = fleet.play(
        "firewall", "--limit", "app1", firewall_extra_services=[{"port": DATABASE, "from": ["127.0.0.1"]}]
    )
    assert asked.status == 0, asked.output
    assert DATABASE not in knocked(fleet, "app2", "app1")["IPv4"]
    fleet.sh("lb1", "nft insert rule inet eyewall input tcp dport %s accept", DATABASE)
    on = fleet.play("firewall", "--diff")
    assert on.status == 0, on.output
    assert f"-\t\ttcp dport {DATABASE} accept" in on.output
    assert fleet.sh("app1", "nft list tables").splitlines() == ["table inet others", "table inet eyewall"]
    assert DATABASE not in knocked(fleet, "app2", "app1")["IPv4"]
    assert str(DATABASE) not in fleet.sh("lb1", TABLE)
    fleet.sh("app1", "nft delete table inet others")


def test_it_is_there_after_a_reboot(fleet: Fleet) -> None:
    before = fleet.sh("app1", TABLE)
    subprocess.run(["podman", "restart", fleet.container("app1")], check=True, capture_output=True)
    until(lambda: fleet.host("app1").run("systemctl is-active eyewall-firewall").rc == 0, "the firewall", 60)
    assert fleet.sh("app1", TABLE) == before
    until(lambda: ssh_answers(fleet, "app1"), "sshd", 60)
    fleet.sh("app1", "systemctl start nftables")  # whose file begins with `flush ruleset`
    assert fleet.sh("app1", TABLE) == before
    fleet.sh("app1", "nft delete table inet filter")
