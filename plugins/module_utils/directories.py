"""The directories of an application that tmpfiles.d(5) has: which of them are gone, and to have them made again.

systemd makes them at boot. One that is removed while the application runs does not end it, and takes along what makes it
manageable: no process can be asked without its socket, and none can be started without its working directory or its log.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from ansible_collections.eyewall.tornado.plugins.module_utils.root import Failure


def missing(file: Path) -> list[str]:
    """Directories that a file of tmpfiles.d(5) has, and the host has not; none where there is no file."""
    try:
        lines = file.read_text().splitlines()
    except FileNotFoundError:
        return []
    return [words[1] for words in map(str.split, lines) if words[:1] == ["d"] and not Path(words[1]).is_dir()]


def make(file: Path) -> list[str]:
    """Make the directories that are gone; return them. Raises Failure where one cannot be made."""
    gone = missing(file)
    if gone:
        done = subprocess.run(["systemd-tmpfiles", "--create", file], capture_output=True, text=True, check=False)
        if still := missing(file):
            raise Failure(
                f"{', '.join(still)}: got no directory; expected one. systemd-tmpfiles: {done.stderr.strip()}"
            )
    return gone
