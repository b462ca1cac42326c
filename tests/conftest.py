"""Gives tests free ports, and asks Ansible while they run."""

import os
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="session")
def free_ports() -> Callable[[int], list[int]]:
    """Ports in a row that nobody has, below those of outgoing connections; never the same ones twice."""
    # tests run side by side (pytest-xdist), each worker on ports of its own: SO_REUSEPORT shares one without a word
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    given = iter(range(20000 + worker * 3000, 23000 + worker * 3000, 10))

    def ports(count: int) -> list[int]:
        first = next(first for first in given if all(_is_free(port) for port in range(first, first + count)))
        return list(range(first, first + count))

    return ports


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Give a temporary directory that every account may enter; tmp_path is for one's own alone, and pytest sees to that."""
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        yield Path(place)


BACKGROUND = "test_playbooks.py"


@pytest.fixture(scope="session", autouse=True)
def runs(request: pytest.FixtureRequest) -> Iterator[dict[tuple[str, str], Any]]:
    """Give what Ansible says of each playbook and inventory, asked from the first test on where a test wants it."""
    if not any(item.path.name == BACKGROUND for item in request.session.items):
        yield {}
        return
    from support.ansible_runs import asked  # noqa: PLC0415 -- it takes Ansible, which not every run needs

    with asked() as found:
        yield found
