"""Ansible module: whether this host can run the application as asked."""

from __future__ import annotations

import os
import platform
import pwd
import re
import socket
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.entry import SCRIPT_NAME
from ansible_collections.eyewall.tornado.plugins.module_utils.groups import Supervisord, has_supervisor, watch
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import ENVIRONMENT, RELEASE, Layout
from ansible_collections.eyewall.tornado.plugins.module_utils.ours import (
    account_mistake,
    directory_mistakes,
    interpreter_mistake,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.root import PREFIX, PROGRAMS, Failure
from ansible_collections.eyewall.tornado.plugins.module_utils.strangers import holder, listeners, refusal
from ansible_collections.eyewall.tornado.plugins.module_utils.text import with_place

DOCUMENTATION = r"""
module: tornado_app_preflight
short_description: Refuse what cannot work on this host, before anything is changed
description:
  - Looks only. Every mistake is one sentence; all of them are reported together.
options:
  name: {type: str, required: true, description: Name of the application.}
  root: {type: str, required: true, description: Its directory on the host.}
  data: {type: str, required: true, description: What it may write.}
  logs: {type: str, required: true, description: The directory of its logs.}
  sockets: {type: str, required: true, description: The directory of its admin sockets.}
  directories_file: {type: path, required: true, description: "The file for systemd-tmpfiles that lists those that are its own."}
  user: {type: str, required: true, description: "The account that it runs as."}
  comment: {type: str, required: true, description: "The comment that its account has, and no other one."}
  python: {type: path, required: true, description: The interpreter that runs it.}
  processes: {type: str, required: true, description: "C(auto), or a number."}
  port: {type: str, required: true, description: "Port of the first process, or C(auto)."}
  reserved_ports: {type: list, elements: int, default: [], description: Ports of other services of this host.}
  open_files: {type: int, default: 50000, description: Open files that each process may have.}
  other_ports: {type: list, elements: int, default: [], description: Ports that other applications here are about to have.}
  factory: {type: str, default: "", description: "C(package.module:factory), or empty."}
  command: {type: list, elements: str, default: [], description: "A program and its arguments, or empty."}
  fork: {type: bool, default: false, description: "Whether all processes are one program's, on one port."}
  server: {type: str, default: tornado, choices: [tornado, gunicorn], description: What serves the application.}
  debug: {type: bool, default: false, description: Tornado's debug mode.}
  debug_switches: {type: dict, default: {}, description: "Parts of it, true or false by name."}
  production: {type: bool, default: false, description: Whether users are there.}
  settings: {type: dict, default: {}, description: Environment of the application.}
  secrets: {type: dict, default: {}, description: "More of it, in no log."}
  survivors: {type: list, elements: str, default: [], description: "Patterns of commands that may run as the account."}
  paths: {type: dict, default: {}, description: "Paths to ask of the application, a list by the name of its variable."}
  health_host: {type: str, default: localhost, description: "The name that it is asked by (the C(Host) header)."}
  numbers: {type: dict, default: {}, description: "Numbers by the name of their variable, which has to stay within its limits."}
  declared_in: {type: str, default: "", description: "Where the inputs are written, as in C(site_apps.board), for messages."}
  serial: {type: list, elements: str, default: ["100%"], description: Sizes of the batches of hosts.}
"""

# What Application(debug=True) sets (Tornado's guide, "Running and deploying").
DEBUG = {"autoreload": True, "compiled_template_cache": False, "static_hash_cache": False, "serve_traceback": True}
# supervisord's inline_comment_prefixes; it takes the rest of the line for a comment, also inside of quotes
COMMENT = re.compile(r"\s[;#]|[\x00-\x1f\x7f]")
NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
DAY = 86400  # seconds
FIRST_PORT = 8000  # as in Tornado's guide
MEMINFO = Path("/proc/meminfo")
PROCESS_KB = (
    20 * 1024
)  # what a small application has for itself: 22 MB of an idle testapp (Private_Dirty, proc_pid_smaps(5))
# The least and the most that a number may be.
LIMITS = {
    "tornado_app_backlog": (1, 2**31 - 1),
    "tornado_app_parallel_processes": (1, 9999),
    "tornado_app_drain_timeout": (0, DAY),
    "tornado_app_deploy_lock_timeout": (1, 365 * DAY),
    "tornado_app_log_backups": (0, 9999),
    "tornado_app_log_max_bytes": (0, 2**63 - 1),
    "tornado_app_migrate_timeout": (1, 365 * DAY),
    "tornado_app_min_ready_seconds": (0, DAY),
    "tornado_app_start_timeout": (1, DAY),
    "tornado_app_threads": (1, 9999),
    "tornado_app_watchdog_timeout": (0, DAY),
}


def number_of_processes(asked: str, cpus: int) -> int | None:
    """The number that was asked for, `auto` being one per CPU; None for what is neither."""
    if asked == "auto":
        return cpus
    return int(asked) if re.fullmatch(r"[1-9][0-9]{0,3}", asked) else None


def account(name: str) -> int | None:
    """The number of the application's account; None before its first run."""
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        return None


def read(sysctl: str) -> int | None:
    """The value of a kernel parameter; None where this kernel does not have it."""
    path = Path("/proc/sys", *sysctl.split("."))
    return int(path.read_text()) if path.exists() else None


def interpreter(module: AnsibleModule, python: str) -> dict[str, str] | None:
    """Version, architecture and C library of an interpreter; None where there is none."""
    if not (os.path.isabs(python) and os.access(python, os.X_OK)):  # noqa: PTH117 -- as it is written
        return None
    if Path(python).resolve() == Path(sys.executable).resolve():  # no need to start another one
        version, machine, glibc = platform.python_version(), platform.machine(), platform.libc_ver()[1] or "-"
    else:
        code = "import platform as p; print(p.python_version(), p.machine(), p.libc_ver()[1] or '-')"
        _, out, _ = module.run_command([python, "-I", "-c", code], check_rc=True)
        version, machine, glibc = out.split()
    return {
        "python": ".".join(version.split(".")[:2]),
        "python_full": version,
        "machine": machine,
        "glibc": glibc,
    }


def port_mistakes(ports: list[int], reserved: list[int], own: int | None) -> list[str]:
    """What is wrong with the ports, a sentence each. The account `own` has those that a new generation joins."""
    found = []
    span = (
        f"tornado_app_port: got {ports[0]}, which makes the ports {ports[0]} to {ports[-1]} of {len(ports)} processes"
    )
    low, high = (int(word) for word in Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if ports[0] < 1024 or ports[-1] > 65535:
        return [f"{span}; expected ports from 1024 to 65535."]
    if ports[-1] >= low and ports[0] <= high:
        found.append(
            f"{span}; expected ports outside {low} to {high}, which outgoing connections use here "
            "(net.ipv4.ip_local_port_range)."
        )
    taken = {one.port: one for one in listeners() if one.account != own}
    for port in ports:
        if port in reserved:
            found.append(f"{span}; expected free ports, but {port} is another service's of this site.")
        elif port in taken:
            found.append(f"{span}; expected free ports, but {port} is taken by {holder(taken[port])}.")
    return found


def ports_of_others(user: str) -> list[int]:
    """The ports of this host's other applications, by what supervisord has been told: that is so while they are down, too."""
    found: list[int] = []
    for path in PROGRAMS.glob(f"{PREFIX}*.conf"):
        try:
            text = path.read_text(errors="replace")
        except OSError:  # a link to a file that is gone: the deploy of its application makes it again
            continue
        said = dict(re.findall(r"^(user|numprocs|numprocs_start)=(\S+)$", text, re.MULTILINE))
        if said.get("user") != user and said.get("numprocs_start", "").isdigit():
            start = int(said["numprocs_start"])
            found += range(start, start + int(said.get("numprocs", "1")))
    return found


def share_mistakes(processes: int, others: int, open_files: int) -> list[str]:
    """What is wrong with the sum of all applications' processes on this host, a sentence each."""
    total = processes + others
    span = f"tornado_app_processes: got {processes}, which makes {total} processes of all applications on this host"
    found = []
    if (most := read("fs.file-max")) is not None and total * open_files > most:
        found.append(
            f"{span}, and {total * open_files} open files; expected {most} (fs.file-max) or less. Lower tornado_app_processes or "
            "open_files_limit."
        )
    memory = int(re.findall(r"MemTotal: +(\d+)", MEMINFO.read_text())[0])
    if total * PROCESS_KB > memory:
        found.append(
            f"{span}; expected {memory // PROCESS_KB} or less, because an idle one takes {PROCESS_KB // 1024} MB and there are "
            f"{memory // 1024} MB."
        )
    return found


def first_port(asked: str, layout: Layout, taken: Iterable[int]) -> int:
    """The port of the first process: what was asked for; what it is today; or the first of a hundred of which none is taken."""
    if asked.isdigit():
        return int(asked)
    if ports := layout.current_ports():
        return ports[0]
    hundreds = {port // 100 for port in taken}
    return next(100 * hundred for hundred in range(FIRST_PORT // 100, 655) if hundred not in hundreds)


def survivor_mistakes(patterns: list[str]) -> list[str]:
    """What is wrong with tornado_app_survivors, a sentence each."""
    found = []
    for pattern in patterns:
        try:
            re.compile(pattern)
            why = "" if pattern.strip() else " (this one is everywhere)"
        except re.error as error:
            why = f" ({error})"
        if why:
            found.append(f"tornado_app_survivors: got {pattern!r}; expected a regular expression{why}.")
        elif COMMENT.search(pattern):
            found.append(f"tornado_app_survivors: got {pattern!r}; expected one line without ' ;' and ' #' in it.")
    return found


def stranger_mistakes(root: str, user: str, ports: list[int], survivors: list[str]) -> list[str]:
    """What runs as the account though nobody of us started it, in a sentence; what a release left, the handover ends."""
    if not (Path(root, "current").is_symlink() and has_supervisor() and account(user)):
        return []
    try:
        found = watch(Supervisord(), user, ports, survivors).strangers()
    except Failure:  # it is the handover that needs supervisord, and says so
        return []
    foreign = [one for one in found if one.kind == "foreign"]
    return [refusal(user, foreign)] if foreign else []


def kind(value: object) -> str:
    """What a value is, in YAML's words, without the value, which may be a secret."""
    names = {bool: "true or false", int: "a number", float: "a number", list: "a list", dict: "a mapping"}
    return "nothing" if value is None else names.get(type(value), f"a {type(value).__name__}")


def setting_mistakes(variable: str, settings: dict[str, Any], placeholders: tuple[object, ...]) -> list[str]:
    """What is wrong with a mapping of environment variables, a sentence each, without any value."""
    found = []
    for name, value in settings.items():
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", str(name)):
            found.append(
                f"{variable}: got the name '{name}'; expected letters, digits and underscores, not starting with a digit."
            )
        if not isinstance(value, str):
            # YAML has changed it already: 1.10 is 1.1, 9:30 is 570, 0640 is 416, and yes is true
            found.append(f"{variable}.{name}: got {kind(value)}; expected a string. Put the value in quotes.")
        elif value in placeholders:
            found.append(
                f"{variable}: got nothing or the example's placeholder for {name}; expected a value of your own."
            )
    return found


def path_mistakes(paths: dict[str, list[str]]) -> list[str]:
    """What is wrong with paths that the application is asked for, a sentence each."""
    return [
        f"{variable}: got '{path}'; expected paths on the site, as in /health."
        for variable, wanted in paths.items()
        for path in wanted
        if not re.fullmatch(r"/[!-~]*", path)
    ]


def number_mistakes(numbers: dict[str, Any]) -> list[str]:
    """What is wrong with numbers, a sentence each."""
    return [
        f"{name}: got {value}; expected {low} to {high}."
        for name, value in numbers.items()
        for low, high in [LIMITS[name]]
        if not (re.fullmatch(r"-?[0-9]+", str(value)) and low <= int(value) <= high)
    ]


def serial_mistakes(sizes: list[str]) -> list[str]:
    """What is wrong with the sizes of batches, in a sentence."""
    if wrong := [size for size in sizes if not re.fullmatch(r"[1-9][0-9]*|([1-9][0-9]?|100)%", size)]:
        return [
            f"tornado_app_serial: got '{wrong[0]}'; expected numbers of hosts from 1, or shares from '1%' to '100%'."
        ]
    if not sizes:
        return ["tornado_app_serial: got an empty list; expected numbers of hosts, or shares as in '25%'."]
    return []


def host_mistakes(host: str) -> list[str]:
    """What is wrong with the name that the application is asked by: a pattern is none, and it would answer 400."""
    if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(:[0-9]+)?|\[[0-9A-Fa-f:.]+\](:[0-9]+)?", host):
        return []
    return [
        f"tornado_app_health_host: got '{host}'; expected a whole host name, as in www.example.com. It is the first of "
        "nginx_server_name, unless you say otherwise."
    ]


def production_mistakes(debug: bool, switches: dict[str, bool | None]) -> list[str]:
    """What of debug mode is on, a sentence each; a switch that is not given is None."""
    found = {"tornado_app_debug": True} if debug else {}
    found |= {f"tornado_app_debug_switches.{name}": on for name, on in DEBUG.items() if switches.get(name) is on}
    return [
        f"{name}: got {str(value).lower()}; expected {str(not value).lower()}, because tornado_app_production is true."
        for name, value in found.items()
    ]


def run_mistakes(params: dict[str, Any]) -> list[str]:
    """What is wrong with what is to be run, a sentence each."""
    factory, command = params["factory"], params["command"]
    found = []
    if bool(factory) == bool(command):
        given = f"'{factory}' and {command}" if factory else "neither"
        found.append(f"tornado_app_factory, tornado_app_command: got {given}; expected one of the two.")
    # here, because a word without a colon is a console script to the build
    if factory and ":" not in factory:
        found.append(f"tornado_app_factory: got '{factory}'; expected package.module:factory.")
    first = command[0] if command else ""
    if command and not (
        (first == "-m" and len(command) > 1) or first.startswith("{site}/") or re.fullmatch(SCRIPT_NAME, first)
    ):
        found.append(
            f"tornado_app_command: got '{first}' as its first word; expected '-m' and a module, '{{site}}/' and a file of the "
            "application, or the name of a console script."
        )
    if wrong := [word for word in command if COMMENT.search(word)]:
        found.append(
            f"tornado_app_command: got {wrong[0]!r}; expected words on one line, without ' ;' and ' #' in them."
        )
    # debug mode is for one process with a factory, a WSGI server has no fork mode, and a program is no WSGI application
    modes = {"tornado_app_command": command, "tornado_app_fork": params["fork"]}
    modes |= {"tornado_app_server: gunicorn": params["server"] == "gunicorn"}
    autoreload = "tornado_app_debug_switches.autoreload"
    modes |= {"tornado_app_debug": params["debug"], autoreload: params["debug_switches"].get("autoreload")}
    for one, other in (
        ("tornado_app_server: gunicorn", "tornado_app_command"),
        ("tornado_app_server: gunicorn", "tornado_app_fork"),
        *((debug, mode) for debug in ("tornado_app_debug", autoreload) for mode in list(modes)[:3]),
    ):
        if modes[one] and modes[other]:
            found.append(f"{one}, {other}: got both; expected one of the two.")
    return found


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "root": {"type": "str", "required": True},
            "data": {"type": "str", "required": True},
            "logs": {"type": "str", "required": True},
            "sockets": {"type": "str", "required": True},
            "directories_file": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "comment": {"type": "str", "required": True},
            "python": {"type": "path", "required": True},
            "processes": {"type": "str", "required": True},
            "port": {"type": "str", "required": True},
            "reserved_ports": {"type": "list", "elements": "int", "default": []},
            "other_ports": {"type": "list", "elements": "int", "default": []},
            "open_files": {"type": "int", "default": 50000},
            "factory": {"type": "str", "default": ""},
            "command": {"type": "list", "elements": "str", "default": []},
            "fork": {"type": "bool", "default": False},
            "server": {"type": "str", "choices": ["tornado", "gunicorn"], "default": "tornado"},
            "debug": {"type": "bool", "default": False},
            "debug_switches": {
                "type": "dict",
                "default": {},
                "options": {name: {"type": "bool"} for name in DEBUG},
            },
            "production": {"type": "bool", "default": False},
            "settings": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "survivors": {"type": "list", "elements": "str", "default": []},
            "paths": {"type": "dict", "default": {}},
            "health_host": {"type": "str", "default": "localhost"},
            "numbers": {"type": "dict", "default": {}},
            "serial": {"type": "list", "elements": "str", "default": ["100%"]},
            "declared_in": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params: dict[str, Any] = module.params
    mistakes = []
    if not NAME.fullmatch(params["name"]):
        mistakes.append(
            f"tornado_app_name: got '{params['name']}'; expected 1 to 24 lowercase letters, digits or dashes, starting with a "
            "letter."
        )
    cpus = len(os.sched_getaffinity(0))
    processes = number_of_processes(params["processes"], cpus)
    if processes is None:
        mistakes.append(
            f"tornado_app_processes: got '{params['processes']}'; expected 'auto' (one per CPU, here {cpus}) or 1 to 9999."
        )
    elif processes > 1:
        mistakes += [
            f"{name}: got true with {processes} processes (tornado_app_processes: {params['processes']}); expected 1 process, "
            "because Tornado's autoreload is for one."
            for name, on in (
                ("tornado_app_debug", params["debug"]),
                ("tornado_app_debug_switches.autoreload", params["debug_switches"].get("autoreload")),
            )
            if on
        ]
    if params["production"]:
        mistakes += production_mistakes(params["debug"], params["debug_switches"])
    mistakes += run_mistakes(params)
    directories = {f"tornado_app_{name}": params[name] for name in ("root", "data", "logs", "sockets")}
    another = account_mistake(params["user"], params["comment"])
    if not another:
        mistakes += directory_mistakes(directories, params["directories_file"], params["user"])
    layout = Layout(Path(params["root"]))
    others = {*params["other_ports"], *ports_of_others(params["user"])}
    first = first_port(params["port"], layout, others)
    ports = [first + number for number in range(1 if params["fork"] else processes or 1)]
    if not re.fullmatch("auto|[0-9]{1,5}", params["port"]):
        mistakes.append(f"tornado_app_port: got '{params['port']}'; expected auto, or a port from 1024 to 65535.")
    mistakes += port_mistakes(ports, params["reserved_ports"] + params["other_ports"], account(params["user"]))
    mistakes += share_mistakes(processes or 1, len(others), params["open_files"])
    wrong_patterns = survivor_mistakes(params["survivors"])
    mistakes += wrong_patterns
    if not (another or wrong_patterns):
        mistakes += stranger_mistakes(params["root"], params["user"], ports, params["survivors"])
    mistakes += setting_mistakes("tornado_app_settings", params["settings"], ())
    mistakes += setting_mistakes("tornado_app_secrets", params["secrets"], ("", "CHANGE-ME"))
    mistakes += path_mistakes(params["paths"])
    mistakes += host_mistakes(params["health_host"])
    mistakes += number_mistakes(params["numbers"])
    mistakes += serial_mistakes(params["serial"])
    target = None
    # before root runs it
    if mistake := another or interpreter_mistake(params["python"], directories, params["user"]):
        mistakes.append(mistake)
    elif (target := interpreter(module, params["python"])) is None:
        mistakes.append(
            f"tornado_app_python: got '{params['python']}'; expected the absolute path of an interpreter that is on the host."
        )
    elif target["glibc"] == "-":
        mistakes.append(
            f"tornado_app_python: got '{params['python']}' on another C library; expected glibc, which wheels are built for."
        )
    if mistakes:
        said = f"{socket.gethostname()}: " + " ".join(mistakes)
        module.fail_json(msg=with_place(said, params["declared_in"]))
    module.exit_json(
        changed=False,
        cpus=cpus,
        processes=processes,
        ports=ports,
        target=target,
        kernel={name: read(name) for name in ("net.core.somaxconn", "net.ipv4.tcp_migrate_req")},
        has_supervisor=Path("/usr/bin/supervisord").exists(),
        current=layout.current_generation(),
        releases=layout.complete(RELEASE),
        environments=layout.complete(ENVIRONMENT),
    )


if __name__ == "__main__":
    main()
