"""The fleet of this scenario, under traffic, and what every fault has to leave behind: nothing."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from proof import Request, Traffic
from support.fleet import Fleet, Run, Standing, ask
from support.waiting import until

RATE = 60.0  # quick requests per second: enough for each moment, and the machine still deploys
# What a process that dies takes along, if it is inside: what must not be sent twice, and what was half answered.
# Anything else nginx asks the next process for.
INSIDE = {"POST kept", "POST new", "POST slow", "upload", "download", "WebSocket", "WebSocket message"}
# Of one process and through one door: two slow POSTs, an upload, a download, four WebSockets and a message on each.
INSIDE_AT_ONCE = 12


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet("faults", tmp_path_factory.mktemp("releases"))


@pytest.fixture(scope="session")
def names() -> list[str]:
    """Two releases that the tests deploy in turn, so that hosts have them already; of their own in every session."""
    return [f"{colour}{time.time():.0f}" for colour in ("red", "blue")]


@pytest.fixture
def fresh() -> str:
    """What makes a release's name one that no host has, also where a test that failed runs once more."""
    return f"{time.time():.3f}"


@pytest.fixture
def before(fleet: Fleet, names: list[str]) -> dict[str, Standing]:
    """What every host runs before the fault: the same release, whole; and each process has a pool that has worked."""
    try:
        found = fleet.stands()
    except AssertionError:  # what a test left that failed is not the next one's fault
        run = fleet.deploy(names[0])
        assert run.status == 0, run.output
        found = fleet.stands()
    assert len({stands.release for stands in found.values()}) == 1, found
    for host, stands in found.items():
        let_pools_work(fleet.doors[host], set(map(str, stands.pids)))
    return found


def let_pools_work(door: str, ports: set[str]) -> None:
    """Let a pool of processes work in the process of each port."""
    until(lambda: not ports or ports.discard(ask(door, "/pool")[1]["X-Port"]), "a pool of each process")


@pytest.fixture
def candidate(fleet: Fleet, before: dict[str, Standing], names: list[str]) -> dict[str, str]:
    """The variables of a release that is not current."""
    current = next(iter(before.values())).release
    return fleet.release(next(name for name in names if name != current))


class Watch:
    """Traffic through every door while a fault happens, and what became of it."""

    def __init__(self, fleet: Fleet, traffic: Traffic) -> None:
        self.fleet, self.traffic = fleet, traffic
        self.begun = time.time()
        self.spares: list[Callable[[Request], bool]] = []

    def spare(self, which: Callable[[Request], bool]) -> None:
        """Allow some requests to be lost; every other one fails the test."""
        self.spares.append(which)

    def spare_inside(self, host: str, deaths: list[float], at_once: int = INSIDE_AT_ONCE, seconds: float = 1) -> None:
        """Allow what was inside a process of a host when one died, to be lost within `seconds`.

        `at_once` is how much that may be through each of the two doors. An upload is passed on as it comes, so one may be
        inside as well; its client hears of it when it has sent the rest, which takes as long as it says.
        """
        self.spare(
            lambda request: (
                request.kind in INSIDE
                and request.door in (host, "balancer")
                and any(
                    -2 < request.end - death < seconds
                    or (request.kind == "upload" and request.start < death < request.end)
                    for death in deaths
                )
            )
        )
        self.spared_most = len(deaths) * at_once * 2

    spared_most = 10_000

    def answering(self, since: float) -> dict[str, set[str]]:
        """By door, the releases that answered what was asked after a moment."""
        found: dict[str, set[str]] = {door: set() for door in self.fleet.doors}
        for request in self.traffic.report.requests:
            if request.start > since and request.release and request.kind.split()[0] in ("GET", "POST"):
                found[request.door].add(request.release)
        return found

    def only(self, release: str) -> None:
        """Wait until it was asked for a while, and see that nothing else than a release answers."""
        since = time.time()
        until(lambda: all(self.answering(since).values()), "an answer through each door")
        assert self.answering(since) == {door: {release} for door in self.fleet.doors}

    def judge(self) -> None:
        """Fail for each request that was lost and not spared, with the moment as supervisord's log has it."""
        lost = self.traffic.report.lost
        wrong = [request for request in lost if not any(spare(request) for spare in self.spares)]
        said = [f"{time.strftime('%H:%M:%S', time.gmtime(one.end))}{one.end % 1:.3f} {one}" for one in wrong]
        assert not wrong, "\n".join([*said, self.traffic.report.table()])
        assert len(lost) <= self.spared_most, self.traffic.report.table()


@pytest.fixture
def watched(fleet: Fleet) -> Callable[[], contextlib.AbstractContextManager[Watch]]:
    """A block under traffic, of which no request may be lost but what the test spares."""

    @contextlib.contextmanager
    def watch() -> Iterator[Watch]:
        with Traffic(fleet.doors, RATE) as traffic:
            watch = Watch(fleet, traffic)
            yield watch
        watch.judge()

    return watch


@pytest.fixture
def refused(fleet: Fleet, before: dict[str, Standing]) -> Callable[..., None]:
    """Asserts that a deploy failed, said why, and left every host as it was."""

    def check(run: Run, *sentences: str, recorded: bool = True, same_processes: bool = True) -> None:
        assert run.status == 2, run.output
        for sentence in sentences:
            assert sentence in run.text, run.output
        after = fleet.stands()
        if same_processes:
            assert after == before
        assert {host: stands.generation for host, stands in after.items()} == {
            host: stands.generation for host, stands in before.items()
        }
        for host in fleet.hosts if recorded else []:
            record: dict[str, Any] = fleet.records(host)[-1]
            assert (record["outcome"], record["to"]) == ("failed", before[host].generation), record
            assert record["message"] in run.text

    return check


@pytest.fixture
def changed(fleet: Fleet, before: dict[str, Standing]) -> Callable[..., None]:
    """Asserts that a deploy succeeded: its release is on every host, and nothing else."""

    def check(run: Run, variables: dict[str, str]) -> None:
        assert run.status == 0, run.output
        after = fleet.stands()
        assert {stands.release for stands in after.values()} == {variables["tornado_app_version"]}
        for host, stands in after.items():
            # a name for each; PIDs would not do, for a host that starts again may give the same ones
            assert stands.generation != before[host].generation
            assert fleet.records(host)[-1]["outcome"] == "succeeded"

    return check
