import random
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.runner import Eyewall


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """Return a number to make inputs with: another in each run, but one that the test failed with until it passes."""
    cache = request.config.cache
    number: int = cache.get(f"seed/{request.node.nodeid}", None) or random.SystemRandom().randrange(1, 1 << 32)
    cache.set(f"seed/{request.node.nodeid}", number)
    print(f"seed {number}")  # noqa: T201 - pytest shows it if the test failed
    return number


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if call.when == "call" and report.passed and "seed" in getattr(item, "fixturenames", ()):
        item.config.cache.set(f"seed/{item.nodeid}", None)
    return report


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Eyewall]]:
    """Start processes that are gone at the end of the test; see `Eyewall` for the arguments."""
    started: list[Eyewall] = []

    def start(*arguments: str, **how: Any) -> Eyewall:
        started.append(Eyewall(tmp_path, *(arguments or ("eyewall_sample:make_app",)), **how))
        return started[-1]

    yield start
    for server in started:
        server.kill()
        sys.stdout.write(server.log)  # pytest shows it if the test failed


@pytest.fixture
def server(start: Callable[..., Eyewall]) -> Eyewall:
    """Start a process with every default, and wait until it is ready."""
    return start().ready()
