"""Units of systemd whose files we write."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

UNITS = Path("/etc/systemd/system")


def units_of(paths: Iterable[Path]) -> list[str]:
    """The units that some of the files are a part of: a unit's own file, or one of its drop-ins."""
    below = [path.relative_to(UNITS) for path in paths if path.is_relative_to(UNITS)]
    return sorted({path.parts[0].removesuffix(".d") for path in below})
