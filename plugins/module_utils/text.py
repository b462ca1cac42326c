"""What somebody else said, as text that may be shown: an application's log, what its commands print, names it chose.

Whoever reads it does so in a terminal, which takes control characters for commands: they could hide what came before,
change the title, or type. In other places one of them makes the whole text unreadable (XML, YAML).
"""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote, quote_plus

MASK = "********"
PART = 8  # characters of a line of a secret that is one by itself: shorter ones occur in any text
TAIL = 65536  # bytes of a log that are looked at
WIDTH = 500  # characters of a line that are shown

# ECMA-48: a control sequence, as colours are; a string that goes to the terminal and not on the screen, as a title or a link is;
# any other two characters. Each also with the one character that stands for its first two (C1).
ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x1b\x9c\r\n]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]"
)


def with_place(sentences: str, declared_in: str) -> str:
    """Sentences that name the role's variables, with what these are called where the user wrote them (`site_apps.board`)."""
    if declared_in and "tornado_app_" in sentences:
        sentences = f"{sentences} (tornado_app_x is the key x of {declared_in}.)"
    return sentences


def plain(text: str) -> str:
    """A text that a terminal shows as it stands, in the same lines: escape sequences go, what else is not printable is named.

    A carriage return begins a line, so that nothing is overwritten.
    """
    text = re.sub(r"\r\n?", "\n", ESCAPE.sub("", text))
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in text)


def forms(secret: str) -> set[str]:
    """A secret as it may stand in a text: as it is, in lines, and as Python, JSON and addresses write it."""
    found = {secret, repr(secret)[1:-1], ascii(secret)[1:-1], json.dumps(secret)[1:-1]}
    found |= {json.dumps(secret, ensure_ascii=False)[1:-1], quote(secret, safe=""), quote(secret), quote_plus(secret)}
    found |= {line for line in secret.splitlines() if len(line) >= PART}
    return {form for form in found if form.strip()}


def masked(text: str, secrets: Iterable[str]) -> str:
    """A text without secrets, the longest first: one may be part of another."""
    for form in sorted({form for secret in secrets for form in forms(secret)}, key=len, reverse=True):
        text = text.replace(form, MASK)
    return text


def cut(line: str) -> str:
    """A line that is not too long; its end is kept, for that is where exceptions say what they are about."""
    over = len(line) - WIDTH
    return line if over <= 0 else f"{line[: WIDTH // 2]} … {over} characters … {line[-WIDTH // 2 :]}"


def shown(said: bytes | str, secrets: Iterable[str] = (), lines: int = 20) -> str:
    """The last lines of what somebody said, to be shown: plain, without secrets, none too long."""
    text = said.decode(errors="backslashreplace") if isinstance(said, bytes) else said
    hidden = list(secrets)
    # before and after: a secret may have what is not printable in it, or be taken apart by it
    text = masked(plain(masked(text, hidden)), hidden)
    return "\n".join(cut(line.rstrip()) for line in text.strip().split("\n")[-lines:])


def end_of(file: BinaryIO, size: int = TAIL) -> bytes:
    """The last bytes of a file, in whole lines."""
    length = file.seek(0, os.SEEK_END)
    file.seek(max(length - size, 0))
    found = file.read(size)
    if length <= size:
        return found
    # the first line has lost its beginning, which may be that of a secret
    return found.partition(b"\n")[2] or b"(a line of more than %d bytes)" % size


def tail(log: Path, size: int = TAIL) -> bytes:
    """The last bytes of a log, of the file before it too where it was just rotated. Raises OSError.

    Root reads it, so it has to be root's own file, and not what somebody else put in its place.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with open(log, "rb", opener=lambda name, _: os.open(name, flags)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_nlink > 1:
            raise PermissionError(f"{log} is not a file that supervisord made")
        found = end_of(file, size)
    if status.st_size < size:
        with suppress(OSError):
            return tail(log.with_name(f"{log.name}.1"), size - len(found)) + found
    return found
