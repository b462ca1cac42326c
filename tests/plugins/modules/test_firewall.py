"""The firewall's variables and what they become, what is refused, and that only a new SSH connection keeps new rules."""

import json
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure
from support.product import evaluate, load_module, plugin, render, run_module

preflight = load_module("firewall_preflight")
action = plugin("action", "firewall")

GIVEN: dict[str, Any] = {
    "connection": "192.0.2.9 50000 10.0.0.1 22",
    "services": [],
    "extra_services": [],
    "ssh_ports": [],
    "ssh_from": [],
    "rollback_timeout": 60,
    "extra_rules": [],
}


@pytest.fixture
def assess(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run the module on a host that has no other firewall, whatever this machine has."""
    monkeypatch.setattr(preflight, "other_firewalls", list)
    monkeypatch.setattr(preflight, "output", lambda *_: "")
    return lambda **given: run_module(preflight, capsys, **{**GIVEN, **given})


def test_what_is_let_in(assess: Any) -> None:
    found = assess(
        services=[{"port": 80, "from": ["10.0.0.7", "2001:db8::/64"]}, {"port": 443}],
        extra_services=[{"port": 53, "protocol": "udp", "from": ["10.0.0.0/8"]}, {"port": 443, "protocol": "udp"}],
    )
    assert found["let_in"] == [
        "tcp dport 22",
        "ip saddr 10.0.0.7 tcp dport 80",
        "ip6 saddr 2001:db8::/64 tcp dport 80",
        "tcp dport 443",
        "ip saddr 10.0.0.0/8 udp dport 53",
        "udp dport 443",
    ]
    assert found["tcp_ports"] == [80, 443]


def test_ssh_is_where_the_connection_is_or_where_the_inventory_says(assess: Any) -> None:
    here = "2001:db8::9 50000 2001:db8::1 2222"
    assert assess(connection=here)["let_in"] == ["tcp dport 2222"]
    found = assess(connection=here, ssh_ports=[22, 2222], ssh_from=["192.0.2.0/24", "2001:db8::/32"])
    assert found["let_in"] == [
        "ip saddr 192.0.2.0/24 tcp dport 22",
        "ip6 saddr 2001:db8::/32 tcp dport 22",
        "ip saddr 192.0.2.0/24 tcp dport 2222",
        "ip6 saddr 2001:db8::/32 tcp dport 2222",
    ]
    assert assess(connection="fe80::9%eth0 50000 fe80::1%eth0 22", ssh_from=["fe80::/10"])
    assert assess(connection="::ffff:192.0.2.9 50000 ::ffff:10.0.0.1 22", ssh_from=["192.0.2.9"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"ssh_ports": [2222]}, "firewall_ssh_ports: got [2222]; expected 22 among them, where "),
        ({"ssh_ports": [22, 0]}, "firewall_ssh_ports: got 0; expected 1 to 65535."),
        ({"ssh_from": ["10.0.0.0/8"]}, "firewall_ssh_from: got ['10.0.0.0/8']; expected 192.0.2.9 among them, from where "),
        ({"ssh_from": ["desk"]}, "firewall_ssh_from: got 'desk'; expected an address or a network ("),
        ({"ssh_from": ["10.0.0.9/8"]}, "firewall_ssh_from: got '10.0.0.9/8'; expected an address or a network ("),
        ({"connection": ""}, "which Ansible does not reach over SSH; expected an SSH connection: "),
        ({"services": [{"port": 80, "from": []}]}, "firewall_services: got no address in 'from' of port 80; expected one"),
        ({"services": [{"port": 80, "from": ["lb1"]}]}, "firewall_services: got 'lb1'; expected an address or a network ("),
        ({"extra_services": [{"port": 70000}]}, "firewall_extra_services: got port 70000; expected 1 to 65535."),
        ({"rollback_timeout": 4}, "firewall_rollback_timeout: got 4; expected 5 to 3600 (seconds)."),
    ],
)  # fmt: skip
def test_what_would_lock_out_or_open_by_mistake_is_refused(assess: Any, given: dict[str, Any], sentence: str) -> None:
    found = assess(**given)
    assert found["failed"]
    assert sentence in found["msg"]


def chain(table: str, name: str, **more: Any) -> dict[str, Any]:
    return {"chain": {"family": "inet", "table": table, "name": name, **more}}


def rule(table: str, name: str, *expression: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": table, "chain": name, "expr": list(expression)}}


COUNTER = {"counter": {"packets": 0, "bytes": 0}}
INPUT = {"type": "filter", "hook": "input", "prio": 0}
# In the form of `nft -j list ruleset` (nft 1.0.6); the first two in what is telling of ufw 0.36.2 and firewalld 1.3.3.
RULESETS = {
    "ufw": ([chain("filter", "INPUT", **INPUT, policy="drop")], ["inet filter INPUT"]),
    "firewalld": (
        [
            chain("firewalld", "filter_INPUT", **INPUT, policy="accept"),
            rule("firewalld", "filter_INPUT", {"reject": {"type": "icmpx", "expr": "admin-prohibited"}}),
        ],
        ["inet firewalld filter_INPUT"],
    ),
    "the last rule drops": (
        [chain("filter", "INPUT", **INPUT, policy="accept"), rule("filter", "INPUT", COUNTER, {"drop": None})],
        ["inet filter INPUT"],
    ),
    "fail2ban": (
        [
            chain("f2b-table", "f2b-chain", **INPUT, policy="accept"),
            rule(
                "f2b-table",
                "f2b-chain",
                {"match": {"op": "==", "left": "saddr", "right": "@addr-set"}},
                {"reject": None},
            ),
        ],
        [],
    ),
    "what is passed on": ([chain("docker", "FORWARD", hook="forward", policy="drop")], []),
    "a chain that is called": ([chain("filter", "no"), rule("filter", "no", {"drop": None})], []),
    "ours": ([chain("eyewall", "input", **INPUT, policy="drop")], []),
}


@pytest.mark.parametrize("name", RULESETS)
def test_another_firewall_is_one_that_drops_what_it_does_not_know(name: str) -> None:
    entries, found = RULESETS[name]
    assert preflight.chains_that_drop(json.dumps({"nftables": [{"metainfo": {}}, *entries]})) == found
    assert preflight.chains_that_drop("") == []


@pytest.mark.parametrize(
    ("service", "sentence"),
    [
        ({"port": 9100, "form": ["10.0.0.9"]}, "extra_services.form"),
        ({"from": ["10.0.0.9"]}, "port found in extra_services"),
        ({"port": 9100, "protocol": "tcp accept"}, "protocol"),
    ],
)
def test_a_misspelt_service_opens_nothing(assess: Any, service: dict[str, Any], sentence: str) -> None:
    assert sentence in assess(extra_services=[service])["msg"]
    assert assess(extra_services=[{"port": "9100"}])["tcp_ports"] == [9100]


def test_another_firewall_is_refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(preflight, "other_firewalls", lambda: ["ip filter INPUT"])
    said = run_module(preflight, capsys, **GIVEN)["msg"]
    assert "where another firewall drops what it does not know (ip filter INPUT); expected one alone." in said


# ---- What others reach ----

LISTENING = """
LISTEN 0      511          0.0.0.0:80        0.0.0.0:*    users:(("nginx",pid=12,fd=6))
LISTEN 0      128             [::]:22           [::]:*    users:(("sshd",pid=38,fd=4))
LISTEN 0      511                *:8088            *:*    users:(("java",pid=40,fd=5))
LISTEN 0      511             [::]:5432         [::]:*
LISTEN 0      5          127.0.0.1:9090      0.0.0.0:*    users:(("python3",pid=50,fd=3))
LISTEN 0      4096   127.0.0.53%lo:53        0.0.0.0:*
LISTEN 0      5              [::1]:631          [::]:*
LISTEN 0      5 [::ffff:127.0.0.1]:9000            *:*
""".strip()


def test_a_port_that_others_reach_is_not_closed_unasked(assess: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = [""]
    monkeypatch.setattr(preflight, "output", lambda *words: LISTENING if words[0] == "ss" else loaded[0])
    assert "firewall_extra_services: got nothing for 80 (nginx), 5432 (a program), 8088 (java) of " in assess()["msg"]
    told = {"services": [{"port": 80}], "extra_services": [{"port": 5432, "from": ["127.0.0.1"]}]}
    assert " got nothing for 8088 (java) of " in assess(**told)["msg"]
    assert assess(**told, extra_rules=["tcp dport { 443, 8088 } accept"])["changed"] is False
    # once it is there, what is new is closed from its start
    loaded[0] = "table inet eyewall {}"
    assert assess()["changed"] is False


@pytest.mark.parametrize(
    "rule", ["tcp dport 80888 accept", "ip saddr 10.0.0.8088 accept", "ip6 saddr 2001:8088::1 accept"]
)
def test_a_number_that_has_the_ports_in_it_is_no_port(rule: str) -> None:
    assert preflight.would_close(LISTENING, {80, 22, 5432}, [rule]) == ["8088 (java)"]


# ---- The rules ----


def rules(**given: Any) -> list[str]:
    found = {"let_in": ["tcp dport 22", "ip saddr 10.0.0.7 tcp dport 80"], "tcp_ports": [80]}
    text = render("firewall/etc/eyewall/firewall.nft.j2", __firewall_preflight=found, **given)
    return [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]


def test_the_table_is_replaced_in_one_step_and_no_other_is_named() -> None:
    lines = rules()
    assert lines[:3] == ["table inet eyewall", "delete table inet eyewall", "table inet eyewall {"]
    assert [line for line in lines if line.startswith(("table", "delete", "flush", "add"))] == lines[:3]


def test_what_is_not_let_in_is_dropped_and_own_rules_are_asked_first() -> None:
    lines = rules(firewall_extra_rules=["ip protocol vrrp accept"])
    assert "type filter hook input priority filter; policy drop;" in lines
    place = lines.index("ip protocol vrrp accept")
    assert lines[place + 1 :] == [
        "tcp dport 22 accept",
        "ip saddr 10.0.0.7 tcp dport 80 accept",
        'counter comment "dropped"',
        "}",
        "}",
    ]


def test_the_wiring_opens_a_host_for_what_it_is_for() -> None:
    behind = {"nginx_accept_from": ["10.0.0.7"], "nginx_port": 8080}
    assert evaluate("firewall_services", **behind) == [{"port": 8080, "from": ["10.0.0.7"]}]
    assert evaluate("firewall_services", nginx_accept_from=[]) == [{"port": 80}]
    balancer = {
        "group_names": ["balancers"],
        "inventory_hostname": "lb1",
        "groups": {"app": ["app1"], "balancers": ["lb1"]},
    }
    assert evaluate("firewall_services", **balancer, **behind) == [{"port": 80}]
    assert evaluate("firewall_services", **balancer, site_tls="files", **behind) == [{"port": 80}, {"port": 443}]
    # a host that is its own front door: nginx is on loopback
    assert evaluate("firewall_services", site_tls="files") == [{"port": 80}, {"port": 443}]
    inner = {**balancer, "group_names": ["app"], "inventory_hostname": "app1", "site_inner_tls": True}
    assert evaluate("firewall_services", **inner, **behind)[1] == {"port": 443, "from": ["10.0.0.7"]}


# ---- The new connection ----


class Host(action.ActionModule):  # type: ignore[misc, name-defined]
    """The action plugin on a host that is played: what each new connection comes in as, and which steps it was told."""

    def __init__(self, connections: list[str | Exception], tried: bool = True) -> None:
        self.connections: Iterator[str | Exception] = iter(connections)
        self.current: str | Exception = next(self.connections)
        self.tried, self.steps = tried, []
        self._task = SimpleNamespace(args={"rules": "table …", "timeout": 1}, check_mode=False, async_val=0)
        self._connection = SimpleNamespace(reset=self.reset)

    def reset(self) -> None:
        self.current = next(self.connections, self.current)

    def _low_level_execute_command(self, command: str, sudoable: bool) -> dict[str, str]:
        assert (command, sudoable) == ("printenv SSH_CONNECTION", False)
        if isinstance(self.current, Exception):
            raise self.current
        return {"stdout": f"{self.current}\n"}

    def _execute_module(self, module_args: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.current, Exception):
            raise self.current
        self.steps.append(module_args["step"])
        return (
            {"changed": True, "tried": "table", "diff": {}}
            if self.tried and len(self.steps) == 1
            else {"changed": False}
        )

    def said(self, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.setattr(action, "PAUSE", 0.01)
        monkeypatch.setattr(action.ActionBase, "run", lambda *_: {})
        result: dict[str, Any] = self.run(task_vars={"inventory_hostname": "app1"})
        return result


def test_a_new_connection_keeps_the_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(["a 1 b 22", AnsibleConnectionFailure("timed out"), "a 2 b 22"])
    assert "failed" not in host.said(monkeypatch)
    assert host.steps == ["try", "keep"]


def test_the_connection_of_before_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Established connections pass whatever the rules are, and ControlPersist keeps them."""
    host = Host(["a 1 b 22"])
    said = host.said(monkeypatch)
    assert said["failed"]
    assert (
        "app1: no new SSH connection got in through the new rules within 1 s (the connection of before" in said["msg"]
    )
    assert "The rules of before are in force again." in said["msg"]
    assert host.steps == ["try", "undo"]


def test_a_host_that_is_left_alone_needs_no_new_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    host = Host(["a 1 b 22"], tried=False)
    assert host.said(monkeypatch) == {"changed": False}
    assert host.steps == ["try"]
