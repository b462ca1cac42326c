"""Who the application thinks it answers, what else is open, and what a balancer does when it or a host is changed."""

import json
import re
import subprocess
import time
import uuid

import pytest
from fleet_steps import Step, look
from fleet_support import Fleet, until
from proof import Traffic

# Asks /echo of a host's front door from within another host: what is written there is what a stranger may write.
ASK = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=10)
headers = {"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.8", "X-Forwarded-Proto": "https", "X-Scheme": "https"}
headers["Host"] = "site"  # an address with a zone is none
connection.request("GET", "/echo?text=" + sys.argv[2], headers=headers)
print(connection.getresponse().read().decode())
"""
# The state of a host as its balancer sees it.
STATE = """
import csv, sys, urllib.request
lines = urllib.request.urlopen("http://127.0.0.1:8404/;csv").read().decode().lstrip("# ").splitlines()
print({row["svname"]: row["status"] for row in csv.DictReader(lines) if row["pxname"] == "app"}[sys.argv[1]])
"""


def address(fleet: Fleet, host: str) -> str:
    return fleet.sh(host, "hostname -I").split()[0]


def link_local(fleet: Fleet, host: str) -> str:
    """The IPv6 address that a neighbour reaches a host at: podman's network has no other ones."""
    return fleet.sh(host, "ip -6 -brief address show dev eth0 scope link").split()[2].partition("/")[0] + "%eth0"


@pytest.mark.parametrize(
    ("origin", "through", "believed"),
    [("app2", "lb1", False), ("app2", "app2", False), ("lb1", "app1", True)],
    ids=["through the balancer", "from loopback", "from the balancer"],
)
def test_the_clients_address_and_scheme(fleet: Fleet, settled: Step, origin: str, through: str, believed: bool) -> None:
    """What a client writes is believed from a balancer alone, in nginx' log and in the application."""
    text = uuid.uuid4().hex
    place = "127.0.0.1" if origin == through else address(fleet, through)
    said = json.loads(fleet.sh(origin, "python3 -c %s %s %s", ASK, place, text))
    client = "203.0.113.7" if believed else place if origin == through else address(fleet, origin)
    assert (said["text"], said["client"], said["scheme"]) == (text, client, "https" if believed else "http")
    logged = until(lambda: fleet.host(said["host"]).run("grep %s /var/log/nginx/access.log", text).stdout, "the log")
    assert json.loads(logged)["client"] == client


@pytest.mark.parametrize("spoken", ["IPv4", "IPv6"])
def test_a_host_answers_nobody_past_its_balancer(fleet: Fleet, settled: Step, spoken: str) -> None:
    """What a stranger writes changes nothing, nor does the way that he comes; the balancer has its answer."""
    place = address(fleet, "app2") if spoken == "IPv4" else link_local(fleet, "app2")
    asked = fleet.host("app1").run("python3 -c %s %s stranger", ASK, place)
    assert "closed connection without response" in asked.stderr, asked
    if spoken == "IPv4":
        assert json.loads(fleet.sh("lb1", "python3 -c %s %s balancer", ASK, place))["text"] == "balancer"


def test_nothing_else_is_open(fleet: Fleet, settled: Step) -> None:
    for host in ["lb1", *fleet.hosts]:
        listening = [line.split()[4] for line in fleet.sh(host, "ss -ltunH").splitlines()]
        outside = {place for place in listening if not re.match(r"127\.|\[::1\]", place)}
        assert {place.rpartition(":")[2] for place in outside} == {"22", "80"}, listening
        assert len(listening) > len(outside), "what is on loopback is seen, too"


def test_a_reload_of_the_balancer_loses_nothing(fleet: Fleet, settled: Step) -> None:
    before = look(fleet)["lb1"].doors
    with Traffic({"balancer": fleet.doors["balancer"]}, rate=150) as traffic:
        time.sleep(1)
        with traffic.during("reload"):
            fleet.sh("lb1", "systemctl reload haproxy")
        time.sleep(2)
    assert set(look(fleet)["lb1"].doors) - set(before), "there is a new process"
    assert traffic.report.lost == [], traffic.report.table()


def test_a_host_without_nginx_is_out_within_3_seconds(fleet: Fleet, settled: Step) -> None:
    def is_seen(state: str) -> bool:
        return fleet.sh("lb1", "python3 -c %s app1", STATE).startswith(state)

    assert is_seen("UP")
    with Traffic({"balancer": fleet.doors["balancer"]}, rate=150) as traffic:
        time.sleep(1)
        stopped = time.time()
        stop = subprocess.Popen(["podman", "exec", fleet.container("app1"), "systemctl", "stop", "nginx"])
        try:
            until(lambda: is_seen("DOWN"), "the balancer to see it")
            out = time.time()
            time.sleep(2)
        finally:
            stop.wait()
            back = time.time()
            fleet.sh("app1", "systemctl start nginx")
        until(lambda: is_seen("UP"), "the balancer to see it again")
        time.sleep(1)
    assert out - stopped < 3
    # a WebSocket ends with the nginx that carries it
    requests = [request for request in traffic.report.requests if not request.kind.startswith("WebSocket")]
    assert [request for request in requests if request.fate == "lost"] == [], traffic.report.table()
    assert {request.host for request in requests if out < request.start < back} == {"app2", ""}
    for moment in (requests[:50], requests[-50:]):
        assert {"app1", "app2"} <= {request.host for request in moment}
