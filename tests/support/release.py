"""A release of the test application that differs from every other: its source in a directory, for tornado_app_source."""

import argparse
import shutil
from pathlib import Path

from support import REPOSITORY

TESTAPP = REPOSITORY / "tests" / "apps" / "testapp"


def write_release(name: str, place: Path) -> Path:
    """Copy the test application to `place`, with `name` in every static file, so that each has another hash."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(TESTAPP, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for file in (place / "src" / "testapp" / "static").iterdir():
        comment = f"<!-- {name} -->\n" if file.suffix == ".svg" else f"/* {name} */\n"
        file.write_text(file.read_text(encoding="utf-8") + comment, encoding="utf-8")
    return place


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("place", type=Path)
    given = parser.parse_args()
    write_release(given.name, given.place)
