"""Ansible module: refuse firewall rules that would lock their owner out, and a second firewall beside another one."""

from __future__ import annotations

import ipaddress
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: firewall_preflight
short_description: What the firewall's variables say, in nft's words, or what is wrong with them here
description:
  - Returns C(let_in), what is to be accepted, and C(tcp_ports), those of the services. Changes nothing.
  - Refuses rules that would not let in the connection that Ansible has now, a host on which something else drops
    packets already, and, before the table is there, to close a TCP port on which a program answers others.
options:
  connection: {type: str, required: true, description: "SSH_CONNECTION of Ansible's own connection: addresses and ports."}
  services: {type: list, elements: dict, required: true, description: "port, protocol, from; without from, everybody."}
  extra_services: {type: list, elements: dict, required: true, description: The same.}
  ssh_ports: {type: list, elements: int, required: true, description: "Ports of SSH; empty for the connection's own."}
  ssh_from: {type: list, elements: str, required: true, description: "Who may speak to SSH; empty for everybody."}
  extra_rules: {type: list, elements: str, default: [], description: "Rules in nft's words, which may name ports, too."}
  rollback_timeout: {type: int, required: true, description: Seconds until the rules of before come back.}
"""

OURS = ("inet", "eyewall")
PORTS = range(1, 65536)
# A misspelt `from` would be everybody.
SERVICE = {
    "port": {"type": "int", "required": True},
    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
    "from": {"type": "list", "elements": "str"},
}


class RefusedError(Exception):
    """Something cannot work; the message is the whole sentence."""


def network(name: str, text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """An address or a network."""
    try:
        return ipaddress.ip_network(text, strict=True)
    except ValueError as error:
        raise RefusedError(f"{name}: got '{text}'; expected an address or a network ({error}).") from None


def address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as SSH_CONNECTION has it."""
    found = ipaddress.ip_address(text.partition("%")[0])
    return getattr(found, "ipv4_mapped", None) or found


def plain(one: Any) -> str:
    """A network as one writes it: a single address without its length."""
    return str(one.network_address if one.prefixlen == one.max_prefixlen else one)


def packets(protocol: str, port: int, sources: list[Any]) -> list[str]:
    """What to accept, in nft's words: a line for each source, one for everybody if there is none."""
    where = f"{protocol} dport {port}"
    return [f"{'ip' if one.version == 4 else 'ip6'} saddr {plain(one)} {where}" for one in sources] or [where]


def services(name: str, wanted: list[dict[str, Any]]) -> list[tuple[str, int, list[Any]]]:
    """Protocol, port and sources of each service; no source is everybody."""
    found = []
    for service in wanted:
        if service["port"] not in PORTS:
            raise RefusedError(f"{name}: got port {service['port']}; expected 1 to 65535.")
        sources = [network(name, source) for source in service.get("from") or []]
        # a list that came out empty by mistake must not open a port to everybody
        if service.get("from") is not None and not sources:
            raise RefusedError(
                f"{name}: got no address in 'from' of port {service['port']}; expected one, or no 'from'."
            )
        found.append((service.get("protocol") or "tcp", service["port"], sources))
    return found


def ssh(connection: str, ports: list[int], sources: list[str]) -> tuple[list[int], list[Any]]:
    """Ports and sources of SSH. Refuses what would not let in the connection that there is."""
    host = socket.gethostname()
    if len(connection.split()) != 4:
        raise RefusedError(
            f"firewall_enabled: got true on {host}, which Ansible does not reach over SSH; expected an SSH connection: that a new"
            " one gets in is what keeps new rules."
        )
    client, _, _, port = connection.split()
    for wrong in set(ports) - set(PORTS):
        raise RefusedError(f"firewall_ssh_ports: got {wrong}; expected 1 to 65535.")
    if ports and int(port) not in ports:
        raise RefusedError(
            f"firewall_ssh_ports: got {ports}; expected {port} among them, where {host} has this connection."
        )
    networks = [network("firewall_ssh_from", source) for source in sources]
    if networks and not any(address(client) in one for one in networks):
        raise RefusedError(
            f"firewall_ssh_from: got {sources}; expected {client} among them, from where {host} has this connection."
        )
    return ports or [int(port)], networks


def output(*command: str) -> str:
    """What a program prints; nothing if it is not there or fails."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def chains_that_drop(ruleset: str) -> list[str]:
    """Chains that see what comes in and drop what they do not know, in what `nft -j list ruleset` prints."""
    entries = [next(iter(entry.items())) for entry in json.loads(ruleset or '{"nftables": []}')["nftables"]]
    chains = {
        (what["family"], what["table"], what["name"]): what
        for kind, what in entries
        if kind == "chain" and what.get("hook") == "input" and (what["family"], what["table"]) != OURS
    }
    found = [place for place, what in chains.items() if what.get("policy") == "drop"]
    for kind, what in entries:
        if kind == "rule" and (place := (what["family"], what["table"], what["chain"])) in chains:
            # a rule that asks nothing, as firewalld's last one
            words = {next(iter(part)) for part in what["expr"]}
            if words & {"drop", "reject"} and words <= {"drop", "reject", "counter", "log"}:
                found.append(place)
    return [" ".join(place) for place in dict.fromkeys(found)]


def other_firewalls() -> list[str]:
    """What else drops what comes in."""
    found = chains_that_drop(output("nft", "-j", "list", "ruleset"))
    # without nft, iptables' own words; what it had before nftables never shows there
    programs = [] if shutil.which("nft") else ["iptables", "ip6tables"]
    for program, tables in (("iptables-legacy", "ip_tables_names"), ("ip6tables-legacy", "ip6_tables_names")):
        names = Path("/proc/net", tables)
        if names.exists() and "filter" in names.read_text().split():
            programs.append(program)
    return found + [f"{program} INPUT" for program in programs if "-P INPUT DROP" in output(program, "-S", "INPUT")]


def would_close(listening: str, told: set[int], rules: list[str]) -> list[str]:
    """Ports of what `ss -l -t -p` prints that others reach and nobody has named, each with its program."""
    found = {}
    for line in listening.splitlines():
        where, _, port = line.split()[3].rpartition(":")
        if where.strip("[]").startswith(("127.", "::1", "::ffff:127.")) or int(port) in told:
            continue
        if not any(re.search(rf"(?<![0-9.:]){port}(?![0-9.:])", rule) for rule in rules):
            program = re.search(r'\("([^"]+)"', line)
            found[int(port)] = f"{port} ({program[1] if program else 'a program'})"
    return [found[port] for port in sorted(found)]


def assess(given: dict[str, Any]) -> dict[str, Any]:
    """What the variables say, in nft's words. Refuses what cannot work here."""
    if given["rollback_timeout"] not in range(5, 3601):
        raise RefusedError(f"firewall_rollback_timeout: got {given['rollback_timeout']}; expected 5 to 3600 (seconds).")
    offered = services("firewall_services", given["services"])
    offered += services("firewall_extra_services", given["extra_services"])
    ssh_ports, ssh_sources = ssh(given["connection"], given["ssh_ports"], given["ssh_from"])
    if others := other_firewalls():
        raise RefusedError(
            f"firewall_enabled: got true on {socket.gethostname()}, where another firewall drops what it does not know"
            f" ({', '.join(others)}); expected one alone. Turn that one off (ufw: ufw disable), or leave this one off."
        )
    entries = [("tcp", port, ssh_sources) for port in ssh_ports] + offered
    told = {port for protocol, port, _ in entries if protocol == "tcp"}
    if not output("nft", "list", "table", *OURS) and (
        closed := would_close(output("ss", "-H", "-l", "-t", "-n", "-p"), told, given["extra_rules"])
    ):
        raise RefusedError(
            f"firewall_extra_services: got nothing for {', '.join(closed)} of {socket.gethostname()}, which others reach now; "
            "expected each of them, as in [{port: 8443}], or with from: [127.0.0.1] to close it."
        )
    return {
        "let_in": [line for entry in entries for line in packets(*entry)],
        "tcp_ports": sorted({port for protocol, port, _ in offered if protocol == "tcp"} - set(ssh_ports)),
    }


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "connection": {"type": "str", "required": True},
            "services": {"type": "list", "elements": "dict", "required": True, "options": SERVICE},
            "extra_services": {"type": "list", "elements": "dict", "required": True, "options": SERVICE},
            "ssh_ports": {"type": "list", "elements": "int", "required": True},
            "ssh_from": {"type": "list", "elements": "str", "required": True},
            "extra_rules": {"type": "list", "elements": "str", "default": []},
            "rollback_timeout": {"type": "int", "required": True},
        },
        supports_check_mode=True,
    )
    try:
        found = assess(module.params)
    except RefusedError as refused:
        module.fail_json(msg=str(refused))
    module.exit_json(changed=False, **found)


if __name__ == "__main__":
    main()
