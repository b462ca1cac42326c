"""The order of all tests, and what pytest makes of their asserts: to make it takes as long as to run half of the quick tests."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
# Files that take the longest, in seconds 171 to 42, of 500 for all of them (`--durations=0`): begun last, each would keep all but
# one of the workers (pytest-xdist) waiting.
FIRST = (
    "runner/tests/test_oldest_dependencies.py",
    "tests/benchmarks/test_limits.py",
    "runner/tests/test_tornado_suite.py",
    "runner/tests/test_connection.py",
    "tests/plugins/modules/test_handover.py",
    "runner/tests/test_watchdog.py",
    "runner/tests/test_bodies.py",
    "tests/plugins/modules/test_release.py",
    "runner/tests/test_open_files.py",
    "runner/tests/test_children.py",
)
# What it looks at is made in the background from the first test on (tests/conftest.py)
LAST = ("tests/playbooks/test_playbooks.py",)

# of this process alone: what a test starts has PYTHONDONTWRITEBYTECODE in its environment, as ever
sys.dont_write_bytecode = False
sys.pycache_prefix = str(HERE / ".build" / "pycache")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Bring each file to its place; workers take them in this order (`--no-loadscope-reorder`)."""
    place = {name: number - len(FIRST) for number, name in enumerate(FIRST)} | dict.fromkeys(LAST, 1)
    items.sort(key=lambda item: place.get(item.path.relative_to(HERE).as_posix(), 0))
