"""The order of all tests, and what pytest makes of their asserts: to make it takes as long as to run half of the quick tests."""

import sys
from pathlib import Path

import pytest

# Files that take the longest, in seconds 171 to 42, of 500 for all of them (`--durations=0`): begun last, each would keep all but
# one of the workers (pytest-xdist) waiting.
FIRST = (
    "test_oldest_dependencies.py",
    "test_limits.py",
    "test_tornado_suite.py",
    "test_connection.py",
    "test_handover.py",
    "test_watchdog.py",
    "test_bodies.py",
    "test_release.py",
    "test_open_files.py",
    "test_children.py",
)
# What it looks at is made in the background from the first test on (tests/conftest.py)
LAST = ("test_playbooks.py",)

# of this process alone: what a test starts has PYTHONDONTWRITEBYTECODE in its environment, as ever
sys.dont_write_bytecode = False
sys.pycache_prefix = str(Path(__file__).parent / ".build" / "pycache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring each file to its place; workers take them in this order (`--no-loadscope-reorder`)."""
    place = {name: number - len(FIRST) for number, name in enumerate(FIRST)} | dict.fromkeys(LAST, 1)
    items.sort(key=lambda item: place.get(item.path.name, 0))
