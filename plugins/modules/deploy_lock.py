"""Ansible module: the beginning and the end of a change of the application on a host."""

from __future__ import annotations

import fcntl
import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.eyewall.tornado.plugins.module_utils.clock import age, left, marks
from ansible_collections.eyewall.tornado.plugins.module_utils.directories import make
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import Damaged, Layout, write
from ansible_collections.eyewall.tornado.plugins.module_utils.prune import prune
from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure, lock_file
from ansible_collections.eyewall.tornado.plugins.module_utils.text import cut, plain

DOCUMENTATION = r"""
module: deploy_lock
short_description: Begin and end a change of the application on a host, one at a time, and keep a record
description:
  - The beginning takes the host's lock, C(deploy.json), and says which generation the host is to go back to when the change fails
    anywhere. The end adds a line to C(deploys.jsonl) and gives the lock up. In one run of ansible-playbook, both may be repeated.
  - The end of one that succeeded removes what nobody goes back to, C(removed) (it takes no module of its own, which would be
    half a second).
  - A lock of another run is refused, with a sentence that says whose it is. One whose time is up, or whose ansible-playbook was
    killed on this controller, is taken over, with the generation that its run was to go back to.
  - The beginning makes the directories of C(directories) that are gone, as after somebody removed one in C(/run), because a
    process without the directory of its socket cannot be asked to leave.
  - Every date is the host's, whose clock may be set. How long a lock holds is counted from the host's boot. An action plugin adds
    what it is called by, so it works in a task only.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  state: {type: str, choices: [begun, ended], required: true, description: Which of the two.}
  wanted: {type: str, description: "Name of the wanted generation; to begin."}
  release: {type: str, description: "Its release; to begin."}
  verb: {type: str, choices: [deploy, rollback], description: "What is done; to begin."}
  directories: {type: path, description: "The file of tmpfiles.d(5) that has the application's directories; to begin."}
  expires: {type: int, description: "Seconds from now after which another run may take the lock over; to begin."}
  outcome: {type: str, choices: [succeeded, failed], description: "How it went; to end."}
  message: {type: str, default: "", description: "Why, of which the first line is kept; to end."}
  logs: {type: path, description: "The directory of the application's logs; to end."}
  keep: {type: int, description: "How many generations stay, at least 2; to end."}
  id: {type: str, required: true, description: "The run of ansible-playbook. This and the rest come from the action plugin."}
  owner: {type: str, required: true, description: "Who runs it, as in C(user@controller)."}
  controller: {type: str, required: true, description: "Where, since its last boot."}
  pid: {type: int, required: true, description: Its process.}
  pid_started: {type: int, required: true, description: "When that started, in clock ticks of the controller."}
  dead: {type: str, description: "A run that is known to be dead, whose lock may be taken over."}
"""

RECORDS = 200  # that a host keeps


class Refusal(Exception):  # noqa: N818 -- not an error of ours: another run holds the host
    """One sentence for the user, and the lock that is in the way."""

    def __init__(self, sentence: str, lock: dict[str, Any] | None = None) -> None:
        super().__init__(sentence)
        self.lock = lock


@contextmanager
def exclusive(root: Path) -> Iterator[None]:
    """Be the only one who changes the lock or the record; nobody holds this for longer than that takes."""
    with lock_file(root / ".deploy.lock") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def utc(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def ago(seconds: float) -> str:
    return f"{seconds:.0f} s ago" if seconds < 120 else f"{seconds // 60:.0f} min ago"


class Deploy:
    """One run's change of one host."""

    def __init__(self, params: dict[str, Any], *, check: bool) -> None:
        self.params, self.check = params, check
        self.root = Path(params["root"])
        self.layout = Layout(self.root)
        self.now = int(time.time())
        self.warnings: list[str] = []
        self.held: dict[str, Any] | None = None
        try:
            self.held = self.layout.held()
        except Damaged as damage:
            self.warnings.append(f"{socket.gethostname()}: {damage} It is taken for no lock.")

    def current(self) -> tuple[str | None, str | None]:
        """The generation that starts at boot and its release."""
        name = self.layout.current_generation()
        return name, name and self.layout.release_of(name)

    def is_ours(self) -> bool:
        return self.held is not None and self.held["id"] == self.params["id"]

    def begin(self) -> dict[str, Any]:
        """Take the lock, or renew our own; the result. Raises Refusal for another run's."""
        held, interrupted = self.held, None
        generation, release = self.current()
        lock = {
            **{name: self.params[name] for name in ("id", "owner", "controller", "pid", "pid_started")},
            "started": self.now,
            "expires": self.now + self.params["expires"],
            **marks(self.params["expires"]),
            **{name: self.params[name] for name in ("verb", "wanted", "release")},
            "from": generation,
            "from_release": release,
        }
        if held and self.is_ours():
            renewed = {name: lock[name] for name in ("expires", "boot", "ends")}
            lock = {**lock, **held, **renewed, "up": round(lock["up"] - age(held), 3)}
        elif held and (left(held) <= 0 or held["id"] == self.params["dead"]):
            # It did not finish: hosts that it had changed already go back to where it began.
            lock, interrupted = {**lock, "from": held["from"], "from_release": held["from_release"]}, held
            self.record(held, "interrupted", f"taken over by {lock['owner']}")
        elif held:
            raise Refusal(
                f"{socket.gethostname()}: {held['owner']} began the {held['verb']} of {held['release']} here at "
                f"{utc(held['started'])} ({ago(age(held))}) and holds this host until "
                f"{utc(self.now + int(left(held)))}. Wait; or, if you know that it is dead, "
                f"remove {self.layout.lock} on this host.",
                held,
            )
        if not self.check:
            if not self.root.is_dir():
                raise Refusal(
                    f"{socket.gethostname()}: {self.root} is not there; the role tornado_app makes it before a deploy."
                )
            write(self.layout.lock, json.dumps(lock) + "\n")
        return {"changed": not self.is_ours(), **lock, "interrupted": interrupted}

    def end(self) -> dict[str, Any]:
        """Record how it went, and give the lock up; nothing where it is not ours."""
        if not self.is_ours() or self.held is None:
            return {"changed": False}
        record = self.record(self.held, self.params["outcome"], self.params["message"])
        if not self.check:
            self.layout.lock.unlink()
        return {"changed": True, **record}

    def record(self, lock: dict[str, Any], outcome: str, message: str) -> dict[str, Any]:
        """Add a line to the record: what a run did here. When an interrupted one ended is not known."""
        ended = None if outcome == "interrupted" else self.now
        generation, release = self.current()
        line = {
            **{
                name: lock[name]
                for name in ("id", "started", "owner", "verb", "wanted", "release", "from", "from_release")
            },
            "ended": ended,
            "seconds": ended and round(age(lock)),
            "to": generation,
            "to_release": release,
            "outcome": outcome,
            "message": cut(next(iter(plain(message).strip().splitlines()), "")),
        }
        if not self.check:
            records = [*self.layout.records(), line][-RECORDS:]
            write(self.layout.journal, "".join(f"{json.dumps(record)}\n" for record in records))
        return line


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["begun", "ended"], "required": True},
            "wanted": {"type": "str"},
            "release": {"type": "str"},
            "verb": {"type": "str", "choices": ["deploy", "rollback"]},
            "directories": {"type": "path"},
            "expires": {"type": "int"},
            "outcome": {"type": "str", "choices": ["succeeded", "failed"]},
            "message": {"type": "str", "default": ""},
            "logs": {"type": "path"},
            "keep": {"type": "int"},
            "id": {"type": "str", "required": True},
            "owner": {"type": "str", "required": True},
            "controller": {"type": "str", "required": True},
            "pid": {"type": "int", "required": True},
            "pid_started": {"type": "int", "required": True},
            "dead": {"type": "str"},
        },
        required_if=[
            ("state", "begun", ("wanted", "release", "verb", "expires")),
            ("state", "ended", ("outcome", "logs", "keep")),
        ],
        supports_check_mode=True,
    )
    root = Path(module.params["root"])
    try:
        with exclusive(root) if root.is_dir() and not module.check_mode else nullcontext():
            deploy = Deploy(module.params, check=module.check_mode)
            for warning in deploy.warnings:
                module.warn(warning)
            result = deploy.begin() if module.params["state"] == "begun" else deploy.end()
        if module.params["directories"] and not module.check_mode:
            for place in make(Path(module.params["directories"])):
                module.warn(f"{socket.gethostname()}: {place} was gone, and is there again without what was in it.")
        if module.params["outcome"] == "succeeded" and result["changed"]:
            result["removed"] = prune(root, Path(module.params["logs"]), module.params["keep"])
    except Failure as failure:
        begun = module.params["state"] == "begun"
        module.fail_json(msg=str(failure) if begun else f"What nobody goes back to was not removed: {failure}")
    except Refusal as refusal:
        wanted = {name: module.params[name] for name in ("verb", "wanted", "release")}
        module.fail_json(msg=str(refusal), lock=refusal.lock, **wanted)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
