"""What of a host is the application's: its account, its directories. Anything else of that name is left alone.

An account is the application's if its comment (GECOS) says so, a directory if the application's file for systemd-tmpfiles
lists it, which the role writes before it makes anything else. Something can be given over on purpose: an account with
usermod(8), data with chown(1), and an empty file system by mounting it where a directory will be.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from pathlib import Path

USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
# what systemd-tmpfiles, supervisord and a shell read as it stands
PATH = re.compile(r"(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._+@-]+)+")
WRITTEN = ("tornado_app_data", "tornado_app_sockets")  # by the application


def account_mistake(user: str, comment: str) -> str | None:
    """What is wrong with the name of an account, in a sentence; None for nothing."""
    if not USER.fullmatch(user):
        return (
            f"tornado_app_user: got {user!r}; expected 1-32 lowercase letters, digits, dashes or underscores, starting with a "
            "letter."
        )
    rule = f"expected a name that is free here, or an account whose comment (GECOS) is '{comment}'."
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        names = {group.gr_name for group in grp.getgrall()}
        return f"tornado_app_user: got '{user}', which is a group of this host; {rule}" if user in names else None
    if entry.pw_gecos.rstrip(",") != comment:
        return f"tornado_app_user: got '{user}', which is another account of this host; {rule}"
    if grp.getgrgid(entry.pw_gid).gr_name != user:
        return f"tornado_app_user: got '{user}', which has another group first; expected an account with a group of its name."
    return None


class Account:
    """The application's account, as it may write; one that is not there yet may write what everybody may."""

    def __init__(self, user: str) -> None:
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            self.uid, self.groups = None, set()
        else:
            self.uid, self.groups = entry.pw_uid, set(os.getgrouplist(user, entry.pw_gid))

    def may_write(self, place: Path) -> bool:
        try:
            found = place.stat()
        except OSError:  # not there yet
            return False
        shared = found.st_mode & stat.S_IWOTH or (found.st_mode & stat.S_IWGRP and found.st_gid in self.groups)
        # with the sticky bit, what somebody else has in a directory stays theirs
        return found.st_uid == self.uid or bool(shared and not found.st_mode & stat.S_ISVTX)

    def reach(self, path: Path, written: set[Path]) -> Path | None:
        """Where it could put something else in the place of a path; `written` is its own, there or not."""
        above = [*reversed(path.parents), *reversed(path.resolve().parents)]
        return next((place for place in above if place in written or self.may_write(place)), None)


def listed(directories_file: str) -> set[str]:
    """The directories that systemd-tmpfiles is told to make (tmpfiles.d(5))."""
    file = Path(directories_file)
    lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
    return {words[1] for words in lines if words[:1] == ["d"]}


def is_empty_mount(path: Path) -> bool:
    """Whether a file system was mounted for a directory to come, and not as one of the system's, as /home and /var/tmp are."""
    if not path.is_mount() or len(path.parts) < 3 or path.stat().st_mode & stat.S_IWOTH:
        return False
    return {file.name for file in path.iterdir()} <= {"lost+found"}


def directory_mistakes(directories: dict[str, str], directories_file: str, user: str) -> list[str]:
    """What is wrong with the directories, by the names of their variables; a sentence each."""
    account, own, found = Account(user), listed(directories_file), []
    written = {Path(directories[variable]) for variable in WRITTEN}
    for variable, text in directories.items():
        path = Path(text)
        if not PATH.fullmatch(text):
            found.append(f"{variable}: got {text!r}; expected an absolute path of letters, digits and '._+@-'.")
        elif list(directories.values()).count(text) > 1:
            found.append(f"{variable}: got '{text}'; expected a directory for it alone.")
        elif place := account.reach(path, written):
            found.append(
                f"{variable}: got '{text}'; expected a path that the application, which may write {place}, cannot change."
            )
        elif text not in own and os.path.lexists(path):
            # /run is one file system, and what is in it is there since the boot
            if variable != "tornado_app_sockets" and is_empty_mount(path):
                continue
            if variable == "tornado_app_data" and path.is_dir() and path.lstat().st_uid == account.uid:
                continue
            found.append(
                f"{variable}: got '{text}', which is there and not this application's; expected a path that is free."
            )
    return found


def interpreter_mistake(python: str, directories: dict[str, str], user: str) -> str | None:
    """What is wrong with the place of the interpreter, in a sentence; None for nothing. Root runs it, too."""
    account, written = Account(user), {Path(directories[variable]) for variable in WRITTEN}
    path = Path(python)
    place = account.reach(path, written) or (path if account.may_write(path) else None)
    if place is None:
        return None
    return f"tornado_app_python: got '{python}'; expected a path that the application, which may write {place}, cannot change."
