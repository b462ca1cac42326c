"""A site with TLS, its CA, and clients that check what they are shown."""

import contextlib
from collections.abc import Callable, Iterator

import pytest
from proof import Report, Traffic
from support.product import plugin
from support.tls import NAME, RATE, SITE_CA, Site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site("tls", tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return Site("tls_own", tmp_path_factory.mktemp("own"), "own.localhost")


@pytest.fixture(scope="session")
def issued(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two certificates of the site's own CA, in PEM with their keys."""
    authority = plugin("plugin_utils", "certificates").SiteAuthority.load(SITE_CA)
    return [authority.issue([NAME, f"www.{NAME}"]).pem() for _ in range(2)]


@pytest.fixture
def calm(site: Site) -> Callable[..., contextlib.AbstractContextManager[None]]:
    """A block under traffic over TLS to some front doors, of which none may lose a request."""

    @contextlib.contextmanager
    def watch(*hosts: str, of: Site = site) -> Iterator[None]:
        with Traffic(of.over_tls(*hosts), RATE, ca=site.trusted()) as traffic:
            yield
        calm_and_busy(traffic.report)

    return watch


def calm_and_busy(report: Report) -> None:
    assert report.lost == [], report.table()
    assert len(report.requests) > 200, "the control: there was traffic"
    assert report.count("POST HTTP/2") and report.count("WebSocket message") and report.count("upload"), "of every kind"
