"""Ansible module: write a generation, and let it answer off the air before it takes over."""

from __future__ import annotations

import grp
import http.client
import json
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.admin import get
from ansible_collections.eyewall.tornado.plugins.module_utils.groups import Groups, has_supervisor
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import (
    GENERATION,
    RELEASE,
    SETTINGS,
    Damaged,
    Layout,
    digest,
    is_directory,
    link,
    remove,
    sync_directory,
    write,
)
from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure, alone
from ansible_collections.eyewall.tornado.plugins.module_utils.text import shown

DOCUMENTATION = r"""
module: smoke_test
short_description: Write the wanted generation, and boot it once off the air
description:
  - A generation is a release with its settings, one supervisord process group. It is written once and never changes.
  - Before any port is touched, one process of it is started beside the ones that run, by supervisord, as it will be run, but on a
    Unix socket instead of a port. It has to get ready, to answer its health path with 2xx and each smoke path with less than 400.
    Then it is stopped. Else the result says what it answered, with the last lines of its log.
  - The generation that is current has proved itself and is left alone.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  generation: {type: str, required: true, description: Name of the wanted generation.}
  release: {type: str, description: "Its release, which is on the host. Without it, the generation has to be there already."}
  program: {type: str, description: The configuration of its process group.}
  proof: {type: str, description: The same for the one process off the air.}
  settings: {type: dict, default: {}, description: Its environment.}
  secrets: {type: dict, default: {}, description: "More of its environment, in no log and no diff."}
  ports: {type: list, elements: int, default: [], description: "Its ports, a process each."}
  group: {type: str, required: true, description: The group that may read the settings.}
  sockets: {type: path, required: true, description: Directory of the admin sockets.}
  health_path: {type: str, required: true, description: What has to answer with 2xx.}
  smoke_paths: {type: list, elements: str, default: [], description: What else has to answer with less than 400.}
  host: {type: str, default: localhost, description: "The name that it is asked by, in the C(Host) header."}
  start_timeout: {type: int, default: 30, description: "Seconds that the process has to get ready, and for each answer."}
  stop_timeout: {type: int, default: 60, description: "Seconds that it has to leave; supervisord kills it before."}
  log_lines: {type: int, default: 20, description: How many lines of its log to return.}
"""


class Prover(Groups):
    """The proof of one generation on one host."""

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.generation: str = params["generation"]

    def write(self) -> None:
        """Write the generation, settings readable by the application alone; complete once it has its manifest.

        A damaged one that is current is replaced file by file: its processes may be serving, and nginx finds static files in it.
        """
        if self.layout.is_complete(GENERATION, self.generation):
            return
        release, place, before = self.params["release"], self.place(self.generation), self.before()
        if not release:
            raise Failure(self.layout.absence(self.generation))
        if self.generation != self.current or not is_directory(place):
            remove(place)
            place.mkdir()
            sync_directory(place.parent)
        place.chmod(0o755)  # whatever the umask is: the application reads below it
        environment = {**self.params["settings"], **self.params["secrets"]}
        files = {
            SETTINGS: json.dumps(environment, indent=2, sort_keys=True) + "\n",
            "supervisor.conf": self.params["program"],
            "proof.conf": self.params["proof"],
        }
        for name, text in files.items():
            secret = {"mode": 0o640, "group": grp.getgrnam(self.params["group"]).gr_gid} if name == SETTINGS else {}
            write(place / name, text, **secret)
        link(place / "release", self.layout.place(RELEASE, release))
        content = {
            "generation": self.generation,
            "release": release,
            "ports": self.params["ports"],
            "secrets": sorted(self.params["secrets"]),  # by name: what a log says of them is in no message
            "hashes": {name: digest(text.encode()) for name, text in files.items()},
        }
        if before:
            content["before"] = before
        # it never was current: the first that module_utils/prune.py removes
        self.layout.write_manifest(GENERATION, self.generation, content, date=0)

    def before(self) -> str | None:
        """What a generation that is made again followed when it became current: as its manifest says, or the journal."""
        try:
            return self.manifest(self.generation).get("before")
        except Damaged:
            if self.generation != self.current:
                return None
        of_it = [one for one in self.layout.records() if one["to"] == self.generation and one["verb"] == "deploy"]
        found = [str(one["from"]) for one in of_it if one["from"] not in (None, self.generation)]
        return found[-1] if found else None

    def prove(self) -> dict[str, Any]:
        """Boot one process off the air and ask it; what it answered. Raises Failure for what it should not."""
        group = f"{self.generation}-proof"
        port: int = self.manifest(self.generation)["ports"][0]
        self.add_group(group, self.place(self.generation) / "proof.conf")
        try:
            seconds = self.start(group, [port])[port]
            answers = {path: self.answer(group, port, path) for path in self.wanted()}
        except Failure as failure:
            raise Failure(f"Off the air, before any port was touched: {failure}") from None
        finally:
            self.stop(group, [port])
            self.remove_group(group)
        return {"ready_seconds": seconds, "answers": answers}

    def wanted(self) -> dict[str, int]:
        """Each path, with the status that its answer has to stay below."""
        return {**dict.fromkeys(self.params["smoke_paths"], 400), self.params["health_path"]: 300}

    def answer(self, group: str, port: int, path: str) -> int:
        """The status that a path is answered with. Raises Failure for a wrong one, or none."""
        below = self.wanted()[path]
        try:
            socket = f"{self.params['sockets']}/{group}.http"
            status, _ = get(socket, path, self.params["start_timeout"], self.params["host"])
        except (OSError, http.client.HTTPException) as error:
            why = shown(repr(error), self.secrets(self.generation), 1)
            found = f"gave no answer within {self.params['start_timeout']} s ({why})"
        else:
            if 200 <= status < below:
                return status
            found = f"was answered with {status}"
        raise Failure(f"{group}: GET {path} {found}; allowed is 200 to {below - 1}.{self.log(group, port)}")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "generation": {"type": "str", "required": True},
            "release": {"type": "str"},
            "program": {"type": "str"},
            "proof": {"type": "str"},
            "settings": {"type": "dict", "default": {}},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "ports": {"type": "list", "elements": "int", "default": []},
            "group": {"type": "str", "required": True},
            "sockets": {"type": "path", "required": True},
            "health_path": {"type": "str", "required": True},
            "smoke_paths": {"type": "list", "elements": "str", "default": []},
            "host": {"type": "str", "default": "localhost"},
            "start_timeout": {"type": "int", "default": 30},
            "stop_timeout": {"type": "int", "default": 60},
            "log_lines": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    root, generation = Path(module.params["root"]), module.params["generation"]
    layout = Layout(root)
    if layout.current_generation() == generation and layout.is_complete(GENERATION, generation):
        module.exit_json(changed=False)
    if module.check_mode:
        module.exit_json(changed=True)
    if not has_supervisor():
        module.fail_json(msg="This host has no supervisor; the role supervisord installs it.")
    try:
        with alone(root):
            prover = Prover(module.params)
            prover.write()
            proof = prover.prove()
    except Failure as failure:
        module.fail_json(msg=str(failure))
    module.exit_json(changed=True, **proof)


if __name__ == "__main__":
    main()
