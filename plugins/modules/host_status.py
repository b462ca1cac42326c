"""Ansible module: what a host's users, its services and its next boot find."""

from __future__ import annotations

import csv
import http.client
import json
import os
import socket
import ssl
import subprocess
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.root import PREFIX

DOCUMENTATION = r"""
module: host_status
short_description: What a host's users, its services and its next boot find
description:
  - It asks the entry points of the host as a user does, by the site's name; systemd for the services, and each service's own
    program whether its configuration would start; HAProxy for what it thinks of each host; the file systems for space.
  - C(problems) has a sentence for each thing that is not well, with what to do. The rest is what was found, in figures.
  - An action plugin of the same name adds the difference of the clocks, C(clock).
options:
  entries:
    description: "Where users, or balancers, come in: C(service), C(port), C(name) (the Host header), C(path), C(tls)."
    type: list
    elements: dict
    default: []
  services:
    description: "Units that run now and at boot: C(name), and if there is one, C(check), a command that is 0 if it would start."
    type: list
    elements: dict
    default: []
  pid_files: {type: dict, default: {}, description: "Files that hold the main PID of a unit, by its name: its reload needs it."}
  certificates: {type: bool, default: false, description: Whether eyewall-certificates is asked for HAProxy's.}
  balancer_socket: {type: path, description: "HAProxy's runtime socket. Without it, HAProxy is not asked."}
  balancer_hosts: {type: dict, default: {}, description: "Names of the hosts that HAProxy is to have, by application."}
  apps: {type: list, elements: str, description: "Names of the applications that this host is to have; without, it is not asked."}
  paths: {type: list, elements: path, default: [], description: Whose file systems are looked at; what is not there is left out.}
  timeout: {type: float, default: 10, description: Seconds that an answer may take.}
"""

PROPERTIES = ("Id", "LoadState", "ActiveState", "SubState", "UnitFileState", "Result", "MainPID")
CLAIMS = Path("/etc/tmpfiles.d")  # a file for each application, by the role tornado_app
AT_BOOT = {"enabled", "static", "generated", "alias", "indirect"}
# A file system is full when less than a twentieth of it is left, or less than this of a large one.
LEFT_BYTES = 1 << 30
LEFT_INODES = 10_000


# ---- What users see ----


class TLSConnection(http.client.HTTPSConnection):
    """To loopback, by a name; whose the certificate is, and whether it is good, is asked of the file (eyewall-certificates)."""

    def __init__(self, name: str, port: int, timeout: float) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        super().__init__("127.0.0.1", port, timeout=timeout, context=context)
        self.by_name, self.context = name, context

    def connect(self) -> None:
        http.client.HTTPConnection.connect(self)
        self.sock = self.context.wrap_socket(self.sock, server_hostname=self.by_name)


def ask(port: int, name: str, path: str, timeout: float, *, tls: bool = False) -> tuple[int | None, str, float]:
    """Status of the answer to a GET on loopback, why there is none, and the seconds that it took."""
    begun = time.monotonic()
    connection = (
        TLSConnection(name, port, timeout) if tls else http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    )
    try:
        connection.request("GET", path, headers={"Host": name, "Connection": "close"})
        response = connection.getresponse()
        response.read(1)
    except (OSError, http.client.HTTPException) as error:
        return None, getattr(error, "strerror", None) or str(error) or type(error).__name__, time.monotonic() - begun
    else:
        return response.status, "", time.monotonic() - begun
    finally:
        connection.close()


def entry_problem(entry: Mapping[str, Any], status: int | None, why: str) -> str | None:
    """What is wrong with an entry point's answer, in a sentence."""
    if status is not None and 200 <= status < 400:
        return None
    scheme = "https" if entry.get("tls") else "http"
    where = f"{scheme}://{entry['name']}{entry['path']} on port {entry['port']} ({entry['service']})"
    got = f"got {status}" if status else f"got no answer ({why})"
    hint = {
        502: "no process of the application answers nginx; see the processes, and /var/log/nginx/error.log",
        503: "HAProxy has no host left, or this host takes leave; see what it says of each host",
        504: "the application takes too long; SIGUSR1 to a process shows where it hangs",
        421: "the name is none of the site's (nginx_server_name); run site.yml if the inventory has it",
    }.get(status or 0, "run site.yml" if status is None else "see the application's log")
    return f"{where}: {got}; expected 200 to 399. {hint[0].upper()}{hint[1:]}."


# ---- Services, now and at boot ----


def units(text: str) -> list[dict[str, str]]:
    """What `systemctl show` says, a dict for each unit."""
    blocks = text.strip().split("\n\n") if text.strip() else []
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def short(unit: str) -> str:
    return unit.removesuffix(".service")


def unit_problem(unit: Mapping[str, str]) -> str | None:
    """Why a unit does not run, or would not after a boot, in a sentence."""
    name, state = unit["Id"], unit["ActiveState"]
    if unit["LoadState"] == "not-found":
        return f"{name}: got no such unit; expected it to run. Run site.yml."
    if unit["LoadState"] == "masked":
        return (
            f"{name}: got a masked unit; expected it to run. Run 'systemctl unmask {name}' on the host, then site.yml."
        )
    if state != "active":
        how = ", ".join(word for word in (unit["SubState"], unit["Result"]) if word not in ("success", ""))
        return f"{name}: got {state} ({how}); expected active. Run site.yml, which starts it; why: journalctl -u {short(name)}."
    if unit["UnitFileState"] not in AT_BOOT:
        return f"{name}: got {unit['UnitFileState'] or 'no state'}; expected enabled: a boot would not start it. Run site.yml."
    return None


def run(words: list[str]) -> tuple[int, str]:
    """Exit status of a program, and the line in which it says what is wrong, else its last."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return 1, str(error)
    said = (done.stderr or done.stdout).strip().splitlines()
    wrong = (line for line in said if "[emerg]" in line or "[ALERT]" in line)
    return done.returncode, next(wrong, said[-1] if said else "")


def pid_problem(unit: Mapping[str, str], path: Path) -> str | None:
    """What is wrong with a unit's PID file, in a sentence."""
    try:
        found = path.read_text().strip() or "an empty file"
    except OSError as error:
        found = f"'{error.strerror}'"
    if found == unit["MainPID"]:
        return None
    return (
        f"{path}: got {found}; expected {unit['MainPID']}, without which nothing can reload {unit['Id']}. Run site.yml."
    )


# ---- What the balancer thinks of each host ----


def runtime(path: Path, command: str, timeout: float) -> str:
    """What HAProxy answers on its runtime socket. Raises OSError."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(timeout)
        connection.connect(str(path))
        connection.sendall(f"{command}\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode(errors="replace")


def named(hosts: Mapping[str, Iterable[str]]) -> list[str]:
    """The hosts of each application, by what they are called: with the application's name before it where there are several."""
    return [host if len(hosts) == 1 else f"{app}/{host}" for app, names in hosts.items() for host in names]


def balanced(text: str, apps: Collection[str]) -> dict[str, dict[str, str]]:
    """State of each host, as it is `named`, from `show stat`: of the backend whose checks count for the other one."""
    found: dict[str, dict[str, str]] = {}
    for row in csv.DictReader(text.lstrip("# ").splitlines()):
        if row.get("type") == "2" and not row["pxname"].endswith("-once"):
            found[row["svname"] if len(apps) == 1 else f"{row['pxname']}/{row['svname']}"] = row
    return found


def balance_problems(found: Mapping[str, Mapping[str, str]], wanted: Iterable[str]) -> list[str]:
    """A sentence for each host that HAProxy does not send requests to."""
    problems = [f"HAProxy: got no host {name}; expected it. Run site.yml." for name in wanted if name not in found]
    for name, row in found.items():
        state = row["status"]
        if state.startswith("UP") or state == "no check":
            continue
        if state.startswith(("MAINT", "DRAIN")):
            back = f"set server {row['pxname']}/{row['svname']} state ready"
            way = f"who took it out puts it back: {back} (docs/deploy.md#with-a-host-that-is-dead)"
        else:
            said = " ".join(row.get(key) or "" for key in ("check_status", "check_code", "last_chk")).split()
            way = f"its check says: {' '.join(said) or 'nothing'}. See {name}"
        problems.append(f"HAProxy: got {state} for {name} for {row.get('lastchg') or '?'} s; expected UP; {way}.")
    return problems


# ---- Certificates ----


def certificates() -> tuple[list[dict[str, Any]], list[str]]:
    """The certificates of this host, and a sentence for each problem of theirs."""
    try:
        done = subprocess.run(
            ["eyewall-certificates", "status"], capture_output=True, text=True, timeout=60, check=False
        )
        found: list[dict[str, Any]] = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return [], [f"eyewall-certificates: got no answer ({error}); expected HAProxy's certificates. Run site.yml."]
    return found, [problem for one in found for problem in one["problems"]]


# ---- Applications that nobody declares ----


def left_apps(declared: list[str] | None) -> list[str]:
    """A sentence for each application that is on this host, and that the inventory has no more."""
    here = sorted(path.stem.removeprefix(PREFIX) for path in CLAIMS.glob(f"{PREFIX}*.conf"))
    return [
        f"application {app}: got it on this host, and not in site_apps for it; expected both or neither. "
        f"ansible-playbook playbooks/remove_app.yml -e app={app} removes it."
        for app in here
        if declared is not None and app not in declared
    ]


# ---- Space ----


def space(paths: Iterable[str]) -> list[dict[str, Any]]:
    """Each file system that one of the paths is on, once: bytes and inodes, all of them and those that are left."""
    found: dict[int, dict[str, Any]] = {}
    for path in paths:
        try:
            device, one = Path(path).stat().st_dev, os.statvfs(path)
        except OSError:
            continue
        found.setdefault(
            device,
            {
                "path": path,
                "bytes": one.f_blocks * one.f_frsize,
                "bytes_left": one.f_bavail * one.f_frsize,
                "inodes": one.f_files,
                "inodes_left": one.f_favail,
                "read_only": bool(one.f_flag & os.ST_RDONLY),
            },
        )
    return list(found.values())


def space_problems(systems: Iterable[Mapping[str, Any]]) -> list[str]:
    """A sentence for each file system that is full, or as good as full, or that nobody can write to."""
    problems = []
    for one in systems:
        for what, name, enough in (("bytes", "MB", LEFT_BYTES), ("inodes", "inodes", LEFT_INODES)):
            left, every = one[f"{what}_left"], one[what]
            if every and left < min(every / 20, enough):
                unit = 1_000_000 if what == "bytes" else 1
                problems.append(
                    f"{one['path']}: got {left // unit} {name} left of {every // unit}; expected a twentieth or more. "
                    "Remove what is not needed (docs/faults.md#the-disk-is-full)."
                )
        if one["read_only"]:
            problems.append(f"{one['path']}: got a read-only file system; expected one to write to. See journalctl -k.")
    return problems


def memory(text: str) -> dict[str, int]:
    """Bytes of memory, all of it and what is available, from /proc/meminfo."""
    found = {words[0]: int(words[1]) * 1024 for words in map(str.split, text.splitlines()) if len(words) > 1}
    return {"bytes": found["MemTotal:"], "bytes_left": found["MemAvailable:"]}


def look(params: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that this module says."""
    names = [one["name"] for one in params["services"]]
    found: list[dict[str, str]] = []
    problems: list[str] = []
    if names:
        words = ["systemctl", "show", f"--property={','.join(PROPERTIES)}", *names]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        found = units(done.stdout)
        if not found:
            problems.append(f"systemctl: got '{done.stderr.strip()}'; expected the state of {', '.join(names)}.")
    told: dict[str, str | None] = {unit["Id"]: unit_problem(unit) for unit in found}
    active = {short(unit["Id"]): unit["ActiveState"] == "active" for unit in found}
    problems += filter(None, told.values())
    lost: dict[str, str] = {}
    for unit in found:
        name = short(unit["Id"])
        path = params["pid_files"].get(name)
        if path and active[name] and (problem := pid_problem(unit, Path(path))):
            lost[name] = problem
    problems += lost.values()
    for service in params["services"]:
        name = short(service["name"])
        # `nginx -t` would make an empty PID file where there is none, and this changes nothing
        if service.get("check") and active.get(name) and name not in lost:
            status, said = run(service["check"])
            if status:
                problems.append(
                    f"{service['name']}: got '{said}' from '{' '.join(service['check'])}'; expected a configuration that starts: "
                    "a boot would not. Run site.yml."
                )

    entries = []
    for entry in params["entries"]:
        answered, why, seconds = ask(
            int(entry["port"]), entry["name"], entry["path"], params["timeout"], tls=bool(entry.get("tls"))
        )
        entries.append({**entry, "status": answered, "why": why, "seconds": round(seconds, 3)})
        # of a service that does not run it has been said
        if answered is not None or active.get(entry["service"], True):
            problems += filter(None, [entry_problem(entry, answered, why)])

    hosts: dict[str, str] | None = None
    if params["balancer_socket"] and active.get("haproxy", True):
        try:
            wanted = params["balancer_hosts"]
            rows = balanced(runtime(Path(params["balancer_socket"]), "show stat", params["timeout"]), wanted)
        except OSError as error:
            problems.append(
                f"{params['balancer_socket']}: got '{error.strerror or error}'; expected HAProxy to answer there. Run site.yml."
            )
        else:
            hosts = {name: row["status"] for name, row in rows.items()}
            problems += balance_problems(rows, named(wanted))

    told_certificates, wrong = certificates() if params["certificates"] else ([], [])
    problems += wrong
    problems += left_apps(params["apps"])
    systems = space(params["paths"])
    return {
        "entries": entries,
        "services": {short(unit["Id"]): unit["ActiveState"] for unit in found},
        "balancer": hosts,
        "certificates": told_certificates,
        "space": systems,
        "memory": memory(Path("/proc/meminfo").read_text()),
        "problems": problems + space_problems(systems),
    }


def synchronized() -> bool | None:
    """Whether the clock of this host follows another one; None where it is not this host's own, or nobody says."""
    status, _ = run(["systemd-detect-virt", "--container", "--quiet"])
    if status == 0:
        return None
    status, said = run(["timedatectl", "show", "--property=NTPSynchronized", "--value"])
    return None if status or said not in ("yes", "no") else said == "yes"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "entries": {"type": "list", "elements": "dict", "default": []},
            "services": {"type": "list", "elements": "dict", "default": []},
            "pid_files": {"type": "dict", "default": {}},
            "certificates": {"type": "bool", "default": False},
            "balancer_socket": {"type": "path"},
            "balancer_hosts": {"type": "dict", "default": {}},
            "apps": {"type": "list", "elements": "str"},
            "paths": {"type": "list", "elements": "path", "default": []},
            "timeout": {"type": "float", "default": 10},
        },
        supports_check_mode=True,
    )
    module.exit_json(changed=False, **look(module.params), synchronized=synchronized(), time=time.time())


if __name__ == "__main__":
    main()
