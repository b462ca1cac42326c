"""Who the application thinks it answers, what else is open, and what a balancer does when it or a host is changed."""

import contextlib
import http.client
import json
import re
import socket
import subprocess
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import websocket
from proof import Traffic
from support.fleet import Fleet, ask
from support.fleet_steps import Step, look
from support.sandbox import assert_sandboxed, services
from support.waiting import until

# Asks /echo of a host's front door from within another host: what is written there is what a stranger may write.
ASK = """
import http.client, sys
connection = http.client.HTTPConnection(sys.argv[1], 80, timeout=10)
headers = {"X-Forwarded-For": "203.0.113.7", "X-Real-IP": "203.0.113.8", "X-Forwarded-Proto": "https", "X-Scheme": "https"}
headers["Host"] = "site.example"
connection.request("GET", "/echo?text=" + sys.argv[2], headers=headers)
print(connection.getresponse().read().decode())
"""
# Sends bodies to a front door, from a host, that come drop by drop once a part is there, and one that is slow and steady.
# Says what became of them, and after how many seconds.
DRIP = """
import json, socket, sys, threading, time
def send(path, size, first, pieces):
    began, status = time.monotonic(), ""
    try:
        with socket.create_connection((sys.argv[1], 80), 60) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\\r\\nHost: site.example\\r\\nContent-Length: {size}\\r\\n\\r\\n".encode())
            connection.sendall(b"x" * first)
            connection.settimeout(0.5)
            while not status and time.monotonic() - began < 150:
                try:
                    status = connection.recv(12).decode() or "closed"
                except TimeoutError:
                    connection.sendall(b"x" * min(pieces, size - first))
                    first += min(pieces, size - first)
    except OSError as error:
        status = repr(error)
    ended.append((path, status, time.monotonic() - began))
ended = []
kinds = [("/echo", 2**20, 2**19, 1)] * 10 + [("/upload", 49 * 2**20, 2**22, 1)] * 10 + [("/upload", 240000, 0, 3000)]
threads = [threading.Thread(target=send, args=kind) for kind in kinds]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(ended))
"""
# Memory of the largest process of the application, and what nginx stores of bodies (in files that have no name), in MB.
HELD = """
import json, shutil, subprocess
sizes = subprocess.run(["ps", "-o", "rss=", "-u", "testapp"], capture_output=True, text=True).stdout.split()
print(json.dumps([max(map(int, sizes)) / 1024, shutil.disk_usage("/var/lib/nginx").used / 2**20]))
"""
# The state of a host as its balancer sees it.
STATE = """
import csv, sys, urllib.request
lines = urllib.request.urlopen("http://127.0.0.1:8404/;csv").read().decode().lstrip("# ").splitlines()
print({row["svname"]: row["status"] for row in csv.DictReader(lines) if row["pxname"] == "testapp"}[sys.argv[1]])
"""


def address(fleet: Fleet, host: str) -> str:
    return fleet.sh(host, "hostname -I").split()[0]


def link_local(fleet: Fleet, host: str) -> str:
    """The IPv6 address that a neighbour reaches a host at: podman's network has no other ones."""
    return fleet.sh(host, "ip -6 -brief address show dev eth0 scope link").split()[2].partition("/")[0] + "%eth0"


@pytest.mark.parametrize(
    ("origin", "through", "believed"),
    [("app2", "lb1", False), ("app1", "lb1", True), ("app2", "app2", False), ("lb1", "app1", True)],
    ids=["through the balancer", "from its trusted proxy", "from loopback", "from the balancer"],
)
def test_the_clients_address_and_scheme(fleet: Fleet, settled: Step, origin: str, through: str, believed: bool) -> None:
    """What a client writes is believed from a balancer and its trusted proxy alone, in nginx's log and in the application."""
    text = uuid.uuid4().hex
    place = "127.0.0.1" if origin == through else address(fleet, through)
    said = json.loads(fleet.sh(origin, "python3 -c %s %s %s", ASK, place, text))
    client = "203.0.113.7" if believed else place if origin == through else address(fleet, origin)
    assert (said["text"], said["client"], said["scheme"]) == (text, client, "https" if believed else "http")
    logged = until(lambda: fleet.host(said["host"]).run("grep %s /var/log/nginx/access.log", text).stdout, "the log")
    assert json.loads(logged)["client"] == client


# With each of these, a client could pass itself off as another one, or as one that has signed in, before some framework.
FORGED = [
    "Client-IP", "CF-Connecting-IP", "Fastly-Client-IP", "Forwarded", "True-Client-IP", "X-Client-IP",
    "X-Cluster-Client-IP", "X-Forwarded", "X-Forwarded-By", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port",
    "X-Forwarded-Prefix", "X-Forwarded-Proto", "X-Forwarded-Protocol", "X-Forwarded-Scheme", "X-Forwarded-Server",
    "X-Forwarded-Ssl", "X-Forwarded-User", "X-Original-URL", "X-Original-Host", "X-Rewrite-URL", "X-Host",
    "X-Script-Name", "X-Remote-User", "X-Forwarded-Client-Cert", "X-SSL-Client-Verify", "Front-End-Https", "Proxy",
    "Remote-User", "X-Real-IP", "X-Scheme", "X_Forwarded_For", "X_Forwarded_Host", "X_Real_IP", "Remote_User",
    "Script_Name", "X.Forwarded.For",
]  # fmt: skip


def test_no_client_can_pass_itself_off_as_another(fleet: Fleet, settled: Step) -> None:
    headers = dict.fromkeys(FORGED, "forged") | {"Upgrade": "h2c", "HTTP2-Settings": "AAMAAABkAARAAAAAAAIAAAAA"}
    headers |= {"Connection": "Upgrade, HTTP2-Settings", "Host": "site.example", "X-Other": "own"}
    for door in ("balancer", "app1"):
        connection = http.client.HTTPConnection(urlsplit(fleet.doors[door]).netloc, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/headers", headers=headers)
            arrived = json.loads(connection.getresponse().read())["headers"]
        assert [name for name, value in arrived.items() if value == "forged"] == [], door
        assert "Upgrade" not in arrived, door
        assert (arrived["X-Other"], arrived["Host"]) == ("own", "site.example"), door


@pytest.mark.parametrize("door", ["balancer", "app1"])
def test_a_page_of_another_name_has_no_websocket(fleet: Fleet, settled: Step, door: str) -> None:
    """DNS rebinding: the page's name is pointed to the site, so its browser takes both for the same origin."""

    def opened(name: str, origin: str) -> None:
        url = fleet.doors[door].replace("http", "ws", 1) + "/live"
        websocket.create_connection(url, host=name, origin=origin, timeout=10).close()

    opened("site.example", "http://site.example")
    for name, origin, status in (
        ("evil.example", "http://evil.example", 421),
        ("site.example", "http://evil.example", 403),
    ):
        with pytest.raises(websocket.WebSocketBadStatusException, match=str(status)):
            opened(name, origin)


def test_http_2_is_not_spoken_without_tls(fleet: Fleet, settled: Step) -> None:
    for door in ("balancer", "app1"):
        parts = urlsplit(fleet.doors[door])
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
            client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
            assert client.recv(100).startswith(b"HTTP/1.1 400 "), door


def test_the_admin_socket_is_roots(fleet: Fleet, settled: Step) -> None:
    assert fleet.sh("lb1", "stat -c '%U:%G %a' /run/haproxy/admin.sock").strip() == "root:root 600"


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


ANOTHER_HAPROXY = {
    "reload": "systemctl reload haproxy",
    "restart": "systemctl restart haproxy",
    "upgrade": "DEBIAN_FRONTEND=noninteractive apt-get install --yes --reinstall haproxy",
}


@pytest.mark.parametrize("how", ANOTHER_HAPROXY)
def test_another_haproxy_loses_nothing(fleet: Fleet, settled: Step, how: str) -> None:
    before = look(fleet)["lb1"].doors
    with Traffic({"balancer": fleet.doors["balancer"]}, rate=150) as traffic:
        time.sleep(1)
        with traffic.during(how):
            fleet.sh("lb1", ANOTHER_HAPROXY[how])
        time.sleep(2)
    assert set(look(fleet)["lb1"].doors) - set(before), "there is a new process"
    assert traffic.report.lost == [], traffic.report.table()


def test_slow_bodies_are_ended_and_others_do_not_notice(fleet: Fleet, settled: Step) -> None:
    def held() -> list[Any]:
        return [json.loads(fleet.sh(host, "python3 -c %s", HELD)) for host in fleet.hosts]

    before = held()
    with Traffic({"balancer": fleet.doors["balancer"]}, rate=60) as traffic:
        words = ["podman", "exec", fleet.container("app2"), "python3", "-c", DRIP, address(fleet, "lb1")]
        slow = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        time.sleep(10)
        meanwhile = held()
        ended = json.loads(slow.communicate(timeout=200)[0])
    assert traffic.report.lost == [], traffic.report.table()
    # a second for each 1,000 bytes is what they have, over 20 s; the steady one is slower than 40 of these 20
    *dripping, (path, status, seconds) = sorted(ended, key=lambda each: "200" in each[1])
    assert (path, status) == ("/upload", "HTTP/1.1 200")
    assert seconds > 30
    assert {(path, status) for path, status, _ in dripping} == {("/echo", "HTTP/1.1 408"), ("/upload", "HTTP/1.1 408")}
    assert min(seconds for _, _, seconds in dripping) > 15
    # ten megabytes at most are held for what is not streamed, and nothing of the 40 MB of the others
    assert all(now[0] - then[0] < 30 for then, now in zip(before, meanwhile, strict=True)), (before, meanwhile)
    # app1 has nginx's files on a file system of their own
    assert meanwhile[0][1] < 2, meanwhile


def test_a_stop_of_the_balancer_is_seen(fleet: Fleet, settled: Step) -> None:
    """The control: what Debian's unit does in a restart."""
    with Traffic({"balancer": fleet.doors["balancer"]}, rate=150) as traffic:
        time.sleep(1)
        fleet.sh("lb1", "systemctl stop haproxy; systemctl start haproxy")
        time.sleep(1)
    assert traffic.report.lost != [], traffic.report.table()


def test_the_balancer_is_in_a_sandbox(fleet: Fleet, settled: Step) -> None:
    assert_sandboxed(services(fleet.host("lb1"), "haproxy")["haproxy"], "haproxy")


# An application that takes its time, and a boot that has the time, however slow this machine is.
SLOW = """
cd /etc/systemd/system && mkdir -p eyewall-app-testapp-ready.service.d
printf '[Service]\\nExecStartPost=-/bin/sleep 6\\n' >supervisor.service.d/eyewall-a-slow.conf
printf '[Service]\\nTimeoutStartSec=310\\nExecStart=\\nExecStart=/usr/local/sbin/eyewall-app-testapp-await-ready 300\\n' \\
  >eyewall-app-testapp-ready.service.d/patient.conf
systemctl daemon-reload
"""
QUICK = """
cd /etc/systemd/system && rm -r supervisor.service.d/eyewall-a-slow.conf eyewall-app-testapp-ready.service.d
systemctl enable --quiet eyewall-app-testapp-ready && systemctl daemon-reload
"""


@pytest.fixture
def slow(fleet: Fleet) -> Iterator[None]:
    """Let the application of app2 start slowly."""
    fleet.sh("app2", SLOW)
    yield
    fleet.sh("app2", QUICK)


@contextlib.contextmanager
def asked(door: str) -> Iterator[Counter[int]]:
    """Statuses that an entry point gives meanwhile. What it does not take has none."""
    statuses: Counter[int] = Counter()
    ended = threading.Event()

    def again() -> None:
        while not ended.wait(0.02):
            with contextlib.suppress(OSError, http.client.HTTPException):
                statuses[ask(door, "/")[0]] += 1

    thread = threading.Thread(target=again)
    thread.start()
    try:
        yield statuses
    finally:
        ended.set()
        thread.join()


def start_again(fleet: Fleet) -> float:
    """Start app2 again; when it was down, in seconds since the epoch."""
    subprocess.run(["podman", "stop", "--time", "100", fleet.container("app2")], check=True, capture_output=True)
    down = time.time()
    time.sleep(1)
    subprocess.run(["podman", "start", fleet.container("app2")], check=True, capture_output=True)
    until(lambda: fleet.host("app2").run("true").rc == 0, "app2 to be back", 60)

    def answers() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return ask(fleet.doors["app2"], "/")[0] == 200
        return False

    until(answers, "its entry point", 120)
    fleet.settle("app2")
    return down


def live_on(fleet: Fleet, host: str) -> websocket.WebSocket:
    """Open a WebSocket through the balancer that a host has: it asks hosts in turn, which the traffic's few may all miss."""
    for _ in range(20):
        connection = websocket.create_connection(f"{fleet.doors['balancer'].replace('http', 'ws', 1)}/live", timeout=60)
        if connection.getheaders()["x-host"] == host:
            return connection
        connection.close()
    raise AssertionError(f"no WebSocket of 20 is {host}'s")


def test_a_host_that_goes_down_drains(fleet: Fleet, settled: Step, slow: None) -> None:
    """nginx takes no more requests, what is under way ends, WebSockets are told; the balancer asks the others.

    When it is back, its entry point opens when the processes are ready.
    """
    live = live_on(fleet, "app2")
    with Traffic({"balancer": fleet.doors["balancer"]}, rate=150) as traffic, asked(fleet.doors["app2"]) as statuses:
        time.sleep(2)
        down = start_again(fleet)
        time.sleep(1)
    opcode, payload = live.recv_data()
    live.shutdown()
    assert (opcode, int.from_bytes(payload[:2], "big")) == (websocket.ABNF.OPCODE_CLOSE, 1012)
    assert traffic.report.lost == [], traffic.report.table()
    told = [request for request in traffic.report.requests if request.kind == "WebSocket" and request.fate == "told"]
    assert {request.host for request in told} <= {"app2"}, traffic.report.table()
    assert all(request.end < down for request in told)
    assert set(statuses) == {200}, statuses


def test_an_entry_point_that_does_not_wait_says_502(fleet: Fleet, settled: Step, slow: None) -> None:
    """The control."""
    fleet.sh("app2", "systemctl disable --quiet eyewall-app-testapp-ready")
    with asked(fleet.doors["app2"]) as statuses:
        start_again(fleet)
    assert statuses[502] > 0, statuses


def test_only_a_boot_waits(fleet: Fleet, settled: Step) -> None:
    started = "systemctl show --property=ExecMainStartTimestampMonotonic eyewall-app-testapp-ready"
    before = fleet.sh("app2", started)
    fleet.sh("app2", "supervisorctl -c /etc/supervisor/supervisord.conf stop all")
    try:
        fleet.sh("app2", "systemctl restart nginx")
        assert ask(fleet.doors["app2"], "/")[0] == 502
        assert fleet.sh("app2", started) == before
    finally:
        fleet.sh("app2", "systemctl restart supervisor")
        fleet.settle("app2")


def test_a_host_where_packages_are_upgraded_loses_nothing(fleet: Fleet, settled: Step) -> None:
    before = fleet.stand("app1")
    with Traffic({"balancer": fleet.doors["balancer"]}, rate=150) as traffic:
        time.sleep(1)
        python = "$(dpkg-query --show --showformat '${Package} ' 'python3.*-minimal' 'libpython3.*-stdlib')"
        packages = f"libssl3 openssl {python} supervisor nginx nginx-common"
        fleet.sh("app1", f"DEBIAN_FRONTEND=noninteractive apt-get install --yes --reinstall {packages}")
        until(lambda: set(fleet.processes("app1").values()).isdisjoint(before.pids.values()), "new processes")
        time.sleep(1)
    assert traffic.report.lost == [], traffic.report.table()
    assert fleet.settle("app1").generation == before.generation


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
