"""Ansible module: what runs of the application, what else is there, and what was deployed."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.admin import ask
from ansible_collections.eyewall.tornado.plugins.module_utils.clock import left
from ansible_collections.eyewall.tornado.plugins.module_utils.directories import missing
from ansible_collections.eyewall.tornado.plugins.module_utils.groups import RUNNING, Supervisord, has_supervisor, watch
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import GENERATION, Damaged, Layout
from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure

DOCUMENTATION = r"""
module: app_info
short_description: What runs of the application, what else is there, and what was deployed
description:
  - C(processes) is what every process says of itself on its admin socket. One of the current generation that does not answer is
    listed with the state C(silent). One of another generation, as in the middle of a handover, is listed if it answers.
  - C(generations) is what the host keeps, the one that was current last first; C(last_current) is when that began (Unix time,
    null for never), and the one that is C(before) is what a rollback leads to.
  - C(strangers) are processes of the account that supervisord neither knows nor whose ancestor it knows, and what else listens
    on the application's ports; null where supervisord does not answer.
  - C(damaged) are the files of the layout that are not as they were written, a sentence each. What they belong to is not there,
    that is, no longer among C(generations), unless it is the current one, and the same deploy makes it again.
  - C(problems) has a sentence for each thing of the application that is not well, with what to do; C(silence) is why supervisord
    does not answer, "" where it does.
  - C(deploys) are the last of C(deploys.jsonl), C(lock) is C(deploy.json), null where nobody deploys
    (M(eyewall.tornado.deploy_lock)).
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  sockets: {type: path, required: true, description: Directory of the admin sockets.}
  user: {type: str, required: true, description: The account of the application.}
  directories: {type: path, description: "The file of tmpfiles.d(5) that has the application's directories."}
  logs: {type: path, description: Directory of the application's logs.}
  boot_files: {type: list, elements: path, default: [], description: Files without which a boot does not start the application.}
  survivors: {type: list, elements: str, default: [], description: "Patterns of commands that may run as the account."}
"""

DEPLOYS = 5  # that are shown
AGAIN = "Run deploy.yml or site.yml."


def generations(layout: Layout, sockets: Path) -> list[dict[str, Any]]:
    """Every generation that is complete, by when it became current, the last one first; the current one, damaged or not."""
    current, before = layout.current_generation(), None
    found = {}
    for name in {*layout.complete(GENERATION), *([current] if current else [])}:
        try:
            manifest = layout.manifest(GENERATION, name)
        except Damaged:  # its processes may run on, and have their sockets
            paths = [re.fullmatch(rf"{re.escape(name)}-(\d+)\.sock", path.name) for path in sockets.glob("*.sock")]
            ports = sorted(int(path[1]) for path in paths if path)
            manifest = {"release": layout.release_of(name) or "unknown", "ports": ports}
        if name == current:
            before = manifest.get("before")
        found[name] = {
            "name": name,
            "release": manifest["release"],
            "ports": manifest["ports"],
            "current": name == current,
            "last_current": int(layout.date(name)) or None,
        }
    for name, one in found.items():
        one["before"] = name == before
    # the date is of whole seconds, and may be gone
    return sorted(found.values(), key=lambda one: (one["current"], one["last_current"] or 0, one["name"]), reverse=True)


def processes(known: list[dict[str, Any]], sockets: Path) -> list[dict[str, Any]]:
    """What every process answers, by port; two of a port in the middle of a handover."""
    asked = [(generation, port) for generation in known for port in generation["ports"]]
    places = [str(sockets / f"{generation['name']}-{port}.sock") for generation, port in asked]
    # side by side: one that does not answer takes its time, and there may be many
    with ThreadPoolExecutor(32) as pool:
        answers = list(pool.map(ask, places, ["/status"] * len(places)))
    found = []
    for (generation, port), answer in zip(asked, answers, strict=True):
        if answer and (answer["generation"], answer["port"]) == (generation["name"], port):
            found.append(answer)
        elif generation["current"]:
            found.append(
                {"state": "silent", "port": port, "release": generation["release"], "generation": generation["name"]}
            )
    return sorted(found, key=lambda one: one["port"])


def states(names: Collection[str]) -> dict[str, str]:
    """What supervisord says of the processes of generations, by name. Raises Failure where it does not answer."""
    if not has_supervisor():
        raise Failure("supervisor: got no such package; expected what the role supervisord installs.")
    return {
        f"{info['group']}:{info['name']}": info["statename"]
        for info in Supervisord().getAllProcessInfo()
        if info["group"].removesuffix("-proof") in names
    }


def strangers(known: list[dict[str, Any]], user: str, survivors: list[str]) -> list[dict[str, Any]] | None:
    if not known or not has_supervisor():
        return []
    ports = {port for generation in known for port in generation["ports"]}
    try:
        return [one.result() for one in watch(Supervisord(), user, ports, survivors).strangers()]
    except Failure:
        return None


# ---- What is not well ----


def process_problems(found: list[dict[str, Any]], current: str, states: Mapping[str, str], logs: str) -> list[str]:
    """A sentence for each process that users should meet and do not, or the other way round. `found` is from `processes`."""
    problems = []
    for one in found:
        name = f"{one['generation']}:{one['port']}"
        if one["generation"] != current:
            problems.append(f"{name}: got {one['state']}; expected {current}, which is what a boot starts. {AGAIN}")
        elif one["state"] == "silent":
            state = states.get(name, "unknown")
            why = f"see {logs}/{one['generation']}-{one['port']}.log"
            problems.append(
                f"{name}: got no answer on its admin socket (supervisord: {state}); expected ready; {why}. {AGAIN}"
            )
        elif one["state"] != "ready":
            problems.append(f"{name}: got {one['state']}; expected ready. {AGAIN}")
        elif one["open_files"] >= 0.95 * one["open_files_limit"]:
            problems.append(
                f"{name}: got {one['open_files']} open files of {one['open_files_limit']}; expected room for connections: "
                "new ones wait. More tornado_app_processes, or a higher open_files_limit."
            )
    told = {f"{one['generation']}:{one['port']}" for one in found}
    problems += [
        f"{name}: got {state}; expected {current}, which is what a boot starts. {AGAIN}"
        for name, state in sorted(states.items())
        if name.rpartition(":")[0] != current and name not in told and state in RUNNING
    ]
    return problems


def stranger_problems(found: list[dict[str, Any]]) -> list[str]:
    """A sentence for each process that is not to be there. What says where it is from is only shown."""
    ways = {
        "left": "Deploy, which ends it.",
        "foreign": "End it, or name its command in tornado_app_survivors: nothing is deployed while it is there.",
    }
    return [
        f"{one['pid'] or 'a process'} of {one['account']} ('{one['command']}'): got a process that supervisord does not know"
        f"{' on port ' + ', '.join(map(str, one['ports'])) if one['ports'] else ''}; expected none. {ways[one['kind']]}"
        for one in found
        if one["kind"] in ways
    ]


def problems(
    layout: Layout, params: Mapping[str, Any], told: Mapping[str, Any], states: Mapping[str, str]
) -> list[str]:
    """A sentence for each thing that is not well, with what to do: name, what was found, what was expected."""
    gone = missing(Path(params["directories"])) if params["directories"] else []
    current = layout.current_generation()
    found = [f"{path}: got no directory; expected it: see what removed it. {AGAIN}" for path in gone]
    found += [f"{one} {AGAIN}" for one in told["damaged"]]
    found += [
        f"{path}: got no file; expected it, or a boot does not start the application. Run site.yml."
        for path in params["boot_files"]
        if not Path(path).exists()
    ]
    if current is None and not told["damaged"]:
        found.append(f"{layout.current}: got no link; expected one to a generation: nothing was deployed. {AGAIN}")
    lock = told["lock"]
    if lock and left(lock) <= 0:
        found.append(f"{layout.lock}: got a deploy of {lock['owner']} that did not end; expected none. {AGAIN}")
    if current and (not lock or left(lock) <= 0):  # else nothing starts, as was said, or a handover is under way
        # without the directory of their sockets, none can answer, and it has been said why
        seen = [one for one in told["processes"] if not (one["state"] == "silent" and params["sockets"] in gone)]
        found += process_problems(seen, current, states, params["logs"] or "its log")
    return found + stranger_problems(told["strangers"] or [])


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "sockets": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "directories": {"type": "path"},
            "logs": {"type": "path"},
            "boot_files": {"type": "list", "elements": "path", "default": []},
            "survivors": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    layout, sockets = Layout(Path(module.params["root"])), Path(module.params["sockets"])
    known = generations(layout, sockets)
    try:
        lock = layout.held()
    except Damaged:  # which `damaged` says
        lock = None
    supervised: dict[str, str] = {}
    silence = ""
    try:
        supervised = states(layout.names(GENERATION)) if known else {}
    except Failure as failure:
        silence = str(failure)
    told = {
        "processes": processes(known, sockets),
        "damaged": layout.all_damage(),
        "strangers": strangers(known, module.params["user"], module.params["survivors"]),
        "generations": known,
        "deploys": layout.records()[-DEPLOYS:],
        "lock": lock,
    }
    found = problems(layout, module.params, told, supervised)
    module.exit_json(changed=False, **told, silence=silence, problems=found)


if __name__ == "__main__":
    main()
