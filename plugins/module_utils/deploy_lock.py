"""The lock of a host, which one change of the application has at a time, and the record of what changes did."""

from __future__ import annotations

import fcntl
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.module_utils.clock import age, left, marks
from ansible_collections.eyewall.tornado.plugins.module_utils.directories import make
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import Damaged, Layout, write
from ansible_collections.eyewall.tornado.plugins.module_utils.prune import prune
from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure, lock_file
from ansible_collections.eyewall.tornado.plugins.module_utils.text import cut, plain

# What modules take for it. The run of ansible-playbook, as the action plugin calls it (plugins/plugin_utils/this_run.py):
RUN: dict[str, Any] = {
    "type": "dict",
    "options": {
        "id": {"type": "str", "required": True},
        "owner": {"type": "str", "required": True},
        "controller": {"type": "str", "required": True},
        "pid": {"type": "int", "required": True},
        "pid_started": {"type": "int", "required": True},
        "dead": {"type": "str"},
    },
}
# to begin a change,
BEGIN: dict[str, dict[str, Any]] = {
    "wanted": {"type": "str", "required": True},
    "release": {"type": "str", "required": True},
    "verb": {"type": "str", "choices": ["deploy", "rollback"], "required": True},
    "directories": {"type": "path"},
    "expires": {"type": "int", "required": True},
}
# and to end one.
END: dict[str, dict[str, Any]] = {
    "logs": {"type": "path", "required": True},
    "keep": {"type": "int", "required": True},
}
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

    def __init__(self, root: Path, run: dict[str, Any], *, check: bool) -> None:
        self.this, self.check = run, check
        self.root, self.layout = root, Layout(root)
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
        return self.held is not None and self.held["id"] == self.this["id"]

    def begin(self, params: dict[str, Any]) -> dict[str, Any]:
        """Take the lock, or renew our own; the result. `params` are what BEGIN says. Raises Refusal for another run's."""
        held, interrupted = self.held, None
        generation, release = self.current()
        lock = {
            **{name: self.this[name] for name in ("id", "owner", "controller", "pid", "pid_started")},
            "started": self.now,
            "expires": self.now + params["expires"],
            **marks(params["expires"]),
            **{name: params[name] for name in ("verb", "wanted", "release")},
            "from": generation,
            "from_release": release,
        }
        if held and self.is_ours():
            renewed = {name: lock[name] for name in ("expires", "boot", "ends")}
            lock = {**lock, **held, **renewed, "up": round(lock["up"] - age(held), 3)}
        elif held and (left(held) <= 0 or held["id"] == self.this["dead"]):
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

    def end(self, outcome: str, message: str) -> dict[str, Any]:
        """Record how it went, and give the lock up; nothing where it is not ours."""
        if not self.is_ours() or self.held is None:
            return {"changed": False}
        record = self.record(self.held, outcome, message)
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


Warn = Callable[[str], None]


@contextmanager
def deploy(root: Path, run: dict[str, Any], warn: Warn, *, check: bool) -> Iterator[Deploy]:
    """Give a run's change of a host; no other run changes the lock or the record meanwhile."""
    with exclusive(root) if root.is_dir() and not check else nullcontext():
        one = Deploy(root, run, check=check)
        for warning in one.warnings:
            warn(warning)
        yield one


def begin(root: Path, run: dict[str, Any], params: dict[str, Any], warn: Warn, *, check: bool) -> dict[str, Any]:
    """Take a host's lock, and make the directories that are gone; what the lock says. `params` are what BEGIN says.

    Raises Refusal where another run has it, and Failure.
    """
    with deploy(root, run, warn, check=check) as one:
        result = one.begin(params)
    if params["directories"] and not check:
        for place in make(Path(params["directories"])):
            warn(f"{socket.gethostname()}: {place} was gone, and is there again without what was in it.")
    return result


def end(
    root: Path, run: dict[str, Any], params: dict[str, Any], warn: Warn, *, check: bool, message: str | None = None
) -> dict[str, Any]:
    """Record how it went, and give the lock up, where it is ours. `params` are what END says, `message` is why it failed.

    After a change that succeeded, what nobody goes back to is removed. What could not be, the next change tries again.
    """
    with deploy(root, run, warn, check=check) as one:
        result = one.end("succeeded" if message is None else "failed", message or "")
    if message is None and result["changed"] and not check:
        try:
            result["removed"] = prune(root, Path(params["logs"]), params["keep"])
        except (Failure, OSError) as failure:
            warn(f"{socket.gethostname()}: what nobody goes back to was not removed: {failure}")
    return result
