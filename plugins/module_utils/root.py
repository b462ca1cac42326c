"""The application's directory on a host: one module at a time, and what nobody names goes."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

POLL_SECONDS = 0.05
PROGRAMS = Path("/etc/supervisor/conf.d")
PREFIX = "eyewall-app-"  # as of every file outside of the application's directories
# Seconds to wait for a run whose controller is gone: it goes on, and the same command is run again.
LOCK_SECONDS = 120


class Failure(Exception):  # noqa: N818 -- what went wrong on the host, in a sentence
    """What was asked for cannot be done."""


def until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition came true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_SECONDS)
    return True


def program(group: str) -> Path:
    """The file that makes supervisord know a process group."""
    return PROGRAMS / f"{PREFIX}{group}.conf"


def known_groups() -> set[str]:
    """The process groups of applications that supervisord knows."""
    return {path.stem.removeprefix(PREFIX) for path in PROGRAMS.glob(f"{PREFIX}*.conf")}


@contextmanager
def lock_file(path: Path) -> Iterator[TextIO]:
    """A file to be locked, which holds nothing. Raises Failure where there is something else."""
    # root's alone: whoever may open a file may lock it (flock(2)), the application included
    try:
        file = open(path, "w", opener=partial(os.open, mode=0o600))  # noqa: SIM115 -- it is closed below
    except OSError as error:
        raise Failure(
            f"{path}: got '{error.strerror}'; expected a file that can be locked. Remove what is there."
        ) from None
    with file:
        yield file


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Be the only module that changes this application on this host. Raises Failure when another one takes too long."""
    with lock_file(root / ".lock") as file:

        def taken() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        if not until(taken, LOCK_SECONDS):
            raise Failure(
                f"Another run has been changing {root} for {LOCK_SECONDS} s; look for it with: fuser -v {file.name}"
            )
        yield


def withdraw(store: Path) -> None:
    """Remove the published static files that no release names: the last link is the store's own."""
    for path in sorted(store.rglob("*"), reverse=True):  # what is in a directory, then the directory
        if path.is_file() and path.stat().st_nlink == 1:
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()
