"""Two applications of the same code on the same hosts, each under traffic by its own name."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from proof import Traffic
from support.fleet import Fleet

RATE = 30.0  # quick requests per second for each of the two


@pytest.fixture(scope="session")
def testapp(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet("apps", tmp_path_factory.mktemp("testapp"))


@pytest.fixture(scope="session")
def neighbour(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet("apps", tmp_path_factory.mktemp("neighbour"), app="neighbour", name="127.0.0.2")


@pytest.fixture
def calm() -> Callable[..., contextlib.AbstractContextManager[None]]:
    """A block under traffic to some applications, of which none may lose a request."""

    @contextlib.contextmanager
    def watch(*fleets: Fleet) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            traffics = [stack.enter_context(Traffic(fleet.doors, RATE)) for fleet in fleets]
            yield
        for traffic in traffics:
            assert traffic.report.lost == [], traffic.report.table()
            assert len(traffic.report.requests) > 200, "the control: there was traffic"

    return watch
