"""Write a generation, and let it answer out of rotation before it takes over."""

from __future__ import annotations

import grp
import http.client
import json
from pathlib import Path
from typing import Any

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

# What a module takes for it (DOCUMENTATION of modules/smoke_test.py).
OPTIONS: dict[str, dict[str, Any]] = {
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
}


class SmokeTest(Groups):
    """The smoke test of one generation on one host. `params` are what OPTIONS says."""

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

    def run(self) -> dict[str, Any]:
        """Boot one process out of rotation and ask it; what it answered. Raises Failure for what it should not."""
        group = f"{self.generation}-proof"
        port: int = self.manifest(self.generation)["ports"][0]
        self.add_group(group, self.place(self.generation) / "proof.conf")
        try:
            seconds = self.start(group, [port])[port]
            answers = {path: self.answer(group, port, path) for path in self.wanted()}
        except Failure as failure:
            raise Failure(f"Smoke test, before any port was changed: {failure}") from None
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
        raise Failure(f"{group}: GET {path} {found}; expected 200 to {below - 1}.{self.log(group, port)}")


def smoke_test(params: dict[str, Any], *, check: bool = False) -> dict[str, Any]:
    """Write a generation and run its smoke test, unless it is current; the result of a module. Raises Failure."""
    root, generation = Path(params["root"]), params["generation"]
    layout = Layout(root)
    if layout.current_generation() == generation and layout.is_complete(GENERATION, generation):
        return {"changed": False}
    if check:
        return {"changed": True}
    if not has_supervisor():
        raise Failure("This host has no supervisor; the role supervisord installs it.")
    with alone(root):
        test = SmokeTest(params)
        test.write()
        return {"changed": True, **test.run()}
