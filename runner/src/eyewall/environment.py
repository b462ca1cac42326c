"""The environment of the application: its settings and secrets, which come from a file that other users cannot read.

What an interpreter and its C library read of the environment, they read as they start (``TZ``, ``PYTHONHASHSEED``,
``PYTHONDEVMODE``, ``MALLOC_ARENA_MAX``, ``LD_PRELOAD``). So `enter` starts the interpreter again, in the same process,
before anything heavy is imported: every setting is there from the beginning. No command line shows a value, and
``/proc/PID/environ`` has mode 0400 (proc(5)): it shows them to root and to the application's own account, which may read
the file as well.
"""

import json
import os
import stat
import sys
from pathlib import Path

from eyewall.arguments import make_parser
from eyewall.errors import Refusal

# Says that this very process (its PID) has its environment, and which values that replaced; nobody's child sees it.
_ENTERED = "_EYEWALL_ENTERED"

# Bytes of a variable, with its name and its end: the kernel starts no program with more (MAX_ARG_STRLEN, execve(2)).
LONGEST = 32 * 4096

# What stood in the environment before the settings, None for nothing: a reload starts from there (`eyewall.debug`).
replaced: dict[str, str | None] = {}


def enter() -> None:
    """Start the interpreter again with the settings in its environment, if there are any and this was not done yet.

    Says nothing of a mistake: `eyewall.cli.main` finds it again, and says it. Costs some 50 ms, once.
    """
    entered = json.loads(os.environ.pop(_ENTERED, "{}"))
    if entered.get("pid") == os.getpid():
        replaced.update(entered["replaced"])
        return
    try:
        path = make_parser().parse_args().settings
        settings = {} if path is None else read_settings(path)
    except Refusal:
        return
    if settings:
        before = {name: os.environ.get(name) for name in settings}
        mark = {_ENTERED: json.dumps({"pid": os.getpid(), "replaced": before})}
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], os.environ | settings | mark)  # noqa: S606 - this process, as it was started


def read_settings(path: Path) -> dict[str, str]:
    """Read a JSON object of strings.

    Raises `Refusal` if the file cannot be read, is open to "others", or holds anything else.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"--settings {path}: cannot be read ({error})") from None
    if mode & stat.S_IRWXO:
        raise Refusal(
            f"--settings {path}: got mode {mode:04o}; expected 0640 or less, because it may hold secrets "
            "(chmod o= on it)"
        )
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise Refusal(f"--settings {path}: got no JSON ({error}); expected a JSON object of strings") from None
    if not isinstance(settings, dict):
        raise Refusal(f"--settings {path}: got {type(settings).__name__}; expected a JSON object of strings")
    for name, value in settings.items():
        if not name or "=" in name or "\0" in name:
            raise Refusal(f'--settings {path}: {name!r} cannot name an environment variable (empty, or has "=" or NUL)')
        if not isinstance(value, str) or "\0" in value:
            # The value may be a secret: its type is enough to find the mistake.
            raise Refusal(
                f"--settings {path}: got {type(value).__name__} as the value of {name!r}; expected a string without NUL"
            )
        if len(f"{name}={value}".encode(errors="replace")) >= LONGEST:
            raise Refusal(
                f"--settings {path}: {name!r}: got {len(value)} characters; expected less than {LONGEST // 1024} KB, the most "
                "that a variable of the environment may have. Put it into a file"
            )
    return settings


def name_process(port: int, release: str) -> None:
    """Put ``PORT`` and ``RELEASE`` into ``os.environ``, unless the settings name them."""
    for name, value in {"PORT": str(port), "RELEASE": release}.items():
        if value and name not in replaced:
            os.environ[name] = value
