"""Settings and secrets come from a file, so that no process list and no ``environ`` shows them."""

import json
import os
import stat
from pathlib import Path

from eyewall.errors import Refusal


def read_settings(path: Path) -> dict[str, str]:
    """Read a JSON object of strings.

    The values reach the application through ``os.environ``, which Python changes with ``putenv``: they
    never show in ``/proc/PID/environ`` (the memory a process was started with, proc(5)) nor in ``ps``.

    Raises `Refusal` if the file cannot be read, is open to "others", or holds anything else.
    """
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"--settings {path}: cannot be read ({error})") from None
    if mode & stat.S_IRWXO:
        raise Refusal(
            f"--settings {path}: its mode {mode:04o} lets other users in, and it may hold secrets; "
            "allowed is 0640 or less (chmod o= on it)"
        )
    try:
        settings = json.loads(text)
    except ValueError as error:
        raise Refusal(f"--settings {path}: not JSON ({error}); a JSON object of strings is wanted") from None
    if not isinstance(settings, dict):
        raise Refusal(f"--settings {path}: holds a {type(settings).__name__}; a JSON object of strings is wanted")
    for name, value in settings.items():
        if not name or "=" in name or "\0" in name:
            raise Refusal(f'--settings {path}: {name!r} cannot name an environment variable (empty, or has "=" or NUL)')
        if not isinstance(value, str) or "\0" in value:
            # The value may be a secret: its type is enough to find the mistake.
            raise Refusal(
                f"--settings {path}: the value of {name!r} is a {type(value).__name__}; a string without NUL is wanted"
            )
    return settings


def apply_settings(settings: dict[str, str], port: int, release: str) -> None:
    """Put the settings into ``os.environ``, with ``PORT`` and ``RELEASE`` (unless the file names them)."""
    os.environ["PORT"] = str(port)
    if release:
        os.environ["RELEASE"] = release
    os.environ.update(settings)
