"""Programs that the controller starts: those of its operator, and what a release brings.

A build backend, a setup.py, a .pth file of a dependency and the application's own modules are code that arrived from
elsewhere. They are run in a directory of their own, with an environment in which nothing of the operator's is, and never as
root: where the controller is root's, as ACCOUNT.
"""

from __future__ import annotations

import functools
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.module_utils.account import nothing_outlives, wait
from ansible_collections.eyewall.tornado.plugins.module_utils.text import end_of, shown

ACCOUNT = "nobody"
# Seconds for what nobody could interrupt otherwise: a build compiles, an import does not.
BUILD_SECONDS, IMPORT_SECONDS = 3600, 300
LINES = 50  # that are shown of what a program printed
# Bytes that depend on the day are other bytes on the next: wheels are zip files with dates.
DATE = "1577836800"


class Refusal(Exception):  # noqa: N818 -- not an error of ours: what the user gave cannot work
    """One sentence for the user: what, where, which value, what is expected."""


def without_credentials(text: str) -> str:
    """A text as it may be shown: of each address in it, without what stands before the host, in a query or behind a #."""
    text = re.sub(r"(?<=://)[^/\s'\"]*@", "", text)
    text = re.sub(r"(://[^\s'\"?#]*)\?[^\s'\"#]*", r"\1?…", text)
    return re.sub(r"(://[^\s'\"#]*)#(?!subdirectory=[^\s'\"&]*(?:['\"\s]|$))[^\s'\"]*=[^\s'\"]*", r"\1#…", text)


def run(
    command: Sequence[str | Path], doing: str, variables: dict[str, str] | None = None, without: set[str] | None = None
) -> str:
    """Run one of the operator's programs; its output, or a Refusal that says what it was doing and what it printed."""
    kept = {name: value for name, value in os.environ.items() if name not in (without or ())}
    done = subprocess.run(
        [str(word) for word in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=kept | {"PYTHONDONTWRITEBYTECODE": "1"} | (variables or {}),
        check=False,
    )
    if done.returncode:
        raise Refusal(f"{doing} failed:\n{shown(done.stdout + done.stderr, lines=LINES)}")
    return done.stdout.decode(errors="replace")


def tool(name: str) -> str:
    """A program that was installed beside this Python, else the one on PATH."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise Refusal(f"{name} is not installed beside {sys.executable}: run make tools.")
    return found


def account() -> pwd.struct_passwd | None:
    """The account for what a release brings; None where the operator is not root, and cannot become another one."""
    return pwd.getpwnam(ACCOUNT) if os.geteuid() == 0 else None


class Scratch:
    """A directory that goes away, with a home for what a release brings. What is not given away there is only read."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.account = account()
        if self.account:
            # the account reaches what is below, and nobody else does
            os.chown(place, -1, self.account.pw_gid)
            place.chmod(0o750)
        self.home = place / "home"
        self.home.mkdir(mode=0o700)
        self.give(self.home)

    def give(self, top: Path) -> None:
        """Let the account write what is there."""
        if self.account:
            for path in (top, *top.rglob("*")):
                os.chown(path, self.account.pw_uid, self.account.pw_gid, follow_symlinks=False)

    def show(self, top: Path) -> None:
        """Let the account read what is there, whatever umask a program had that made it."""
        if self.account:
            run(["chmod", "--recursive", "go+rX", top], f"Showing {top} to {ACCOUNT}")

    def run(self, command: Sequence[str | Path], doing: str, seconds: int, cwd: Path | None = None) -> None:
        """Run what a release brings. Raises Refusal with the last lines of what it printed."""
        program = Path(command[0])
        environment = {
            "HOME": str(self.home),
            "TMPDIR": str(self.home),
            "LOGNAME": ACCOUNT,
            "USER": ACCOUNT,
            # tools that a backend starts (a compiler, node) are where the operator has them
            "PATH": f"{program.parent}:{os.environ.get('PATH', os.defpath)}",
            # what else may be in the bytes of a wheel
            "LC_ALL": "C.UTF-8",
            "TZ": "UTC",
            "SOURCE_DATE_EPOCH": DATE,
            "PYTHONHASHSEED": "0",
            "PYTHONDONTWRITEBYTECODE": "1",
            # neither the current directory nor a user's site-packages lends a module that hosts lack
            "PYTHONSAFEPATH": "1",
            "PYTHONNOUSERSITE": "1",
            # no repository but the one that is given, if any
            "GIT_CEILING_DIRECTORIES": str(self.place),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
        }
        identity: dict[str, Any] = {}
        if self.account:
            identity = {"user": self.account.pw_uid, "group": self.account.pw_gid, "extra_groups": []}
        ended = nothing_outlives(self.account.pw_uid) if self.account else nullcontext()
        # a file, because a pipe is open as long as what it left behind runs
        with tempfile.TemporaryFile() as said, ended:
            try:
                process = subprocess.Popen(
                    # no setuid program makes it more than the account
                    [*(["setpriv", "--no-new-privs"] if self.account else []), *(str(word) for word in command)],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    env=environment,
                    cwd=cwd or self.home,
                    umask=0o022,
                    start_new_session=True,
                    **identity,
                )
            except PermissionError as error:
                raise Refusal(f"{doing} failed: the account {ACCOUNT} gets {error.strerror} for {program}.") from None
            try:
                status: int | None = wait(process, seconds)
            except subprocess.TimeoutExpired:
                status = None
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            text = shown(end_of(said), lines=LINES)
        if status is None:
            raise Refusal(f"{doing} did not end within {seconds} s. The last lines of its output:\n{text}")
        if status:
            raise Refusal(f"{doing} failed:\n{text or f'it ended with status {status} and said nothing'}")

    def take(self, path: Path) -> bytes:
        """What a file has that the account made: a file, and no link to one that it may not read itself."""
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, "rb") as file:
            status = os.fstat(handle)
            owner = self.account.pw_uid if self.account else os.geteuid()
            if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or status.st_nlink > 1:
                raise Refusal(f"{path.name}: got a link or a device; expected a file that the build wrote.")
            return file.read()


@contextmanager
def scratch() -> Iterator[Scratch]:
    """Give a Scratch outside of the build directory, which is closed to everybody but the operator."""
    with tempfile.TemporaryDirectory(prefix="tornado_app-", ignore_cleanup_errors=True) as place:
        yield Scratch(Path(place).resolve())


@functools.cache
def interpreter(version: str) -> str | None:
    """A Python on the controller, of a version as in 3.11, that the account may start; None where there is none."""
    name = f"python{version}"
    places = [Path(sys.executable).parent, *os.get_exec_path(), "/usr/local/bin", "/usr/bin"]
    for candidate in dict.fromkeys(Path(str(place), name) for place in places):
        if candidate.is_absolute() and starts(candidate):
            return str(candidate)
    # uv knows those that it has installed
    command = [tool("uv"), "python", "find", "--no-config", "--no-python-downloads", version]
    found = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    ).stdout.strip()
    return found if found and starts(Path(found)) else None


def starts(python: Path) -> bool:
    """Whether the account can start an interpreter, and it is one: a script of that name looks for another one."""
    real = python.resolve()
    if not real.is_file() or not os.access(real, os.R_OK | os.X_OK):
        return False
    with real.open("rb") as file:
        if file.read(2) == b"#!":
            return False
    # /root is closed, as a rule, and what pyenv or uv installed for root is below it
    return account() is None or all(path.stat().st_mode & 0o001 for path in (real, *real.parents))


def make_venv(place: Scratch, python: str, lines: list[str], wheels: list[Path], doing: str) -> Path:
    """Make a virtualenv of wheels, all at once, so that who makes it runs nothing that is in it; its interpreter.

    Of what is installed, a .pth file would be run with the next start of its Python. `lines` are requirements with hashes,
    `wheels` the directories that have them.
    """
    uv, venv = tool("uv"), Path(tempfile.mkdtemp(prefix="venv-", dir=place.place))
    wanted = venv.with_suffix(".txt")
    wanted.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    run([uv, "venv", "--quiet", "--no-config", "--python", python, venv], "Making a virtualenv")
    where = [word for path in wheels for word in ("--find-links", path)]
    run(
        [uv, "pip", "install", "--quiet", "--no-config", "--offline", "--no-index", "--no-deps", "--no-build",
         "--no-compile-bytecode", "--require-hashes", "--python", venv / "bin" / "python", *where, "-r", wanted],
        doing,
    )  # fmt: skip
    place.show(venv)
    return venv / "bin" / "python"
