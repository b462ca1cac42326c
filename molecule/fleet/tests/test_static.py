"""`?v=H` means H: in the middle of a roll, when one host has the new release and one the old, and after the way back."""

import gzip
import hashlib
import re

import pytest
from support.fleet import Fleet
from support.fleet_steps import VERSIONED, Answer, Middle, Step, get


def test_the_pages_are_of_two_releases(deployed: Step, middle: Middle) -> None:
    """The control: without it, the tests below would ask for one release's files."""
    releases = {host: re.findall("<title>testapp (.*)</title>", page) for host, page in middle.pages.items()}
    assert releases == {"app1": [deployed.after["app1"].release], "app2": [deployed.before["app2"].release]}
    versions = [{version for _, version in VERSIONED.findall(page)} for page in middle.pages.values()]
    assert [len(found) for found in versions] == [3, 3]
    assert versions[0].isdisjoint(versions[1])


def means_its_version(fleet: Fleet, assets: list[tuple[str, str, Answer]]) -> None:
    """See that each version, from each door, is answered with its bytes, forever."""
    assert len(assets) == 6 * len(fleet.doors)
    for door, version, answer in assets:
        assert answer.status == 200, (door, answer)
        assert hashlib.sha512(answer.body).hexdigest() == version, (door, answer)
        assert "immutable" in answer.headers["cache-control"], (door, answer)


def test_in_the_middle_of_a_roll(fleet: Fleet, middle: Middle) -> None:
    means_its_version(fleet, middle.assets)


def test_after_the_way_back(fleet: Fleet, assets_after_rollback: list[tuple[str, str, Answer]]) -> None:
    means_its_version(fleet, assets_after_rollback)


def test_a_version_that_nobody_published_is_answered_and_not_kept(fleet: Fleet, middle: Middle) -> None:
    for door in fleet.doors:
        answer = middle.unpublished[door]
        assert answer.status == 200
        assert answer.headers["cache-control"] == "no-cache"
        assert "expires" not in answer.headers


def test_files_are_on_every_host_before_any_process_changes(fleet: Fleet, deployed: Step, middle: Middle) -> None:
    first_process = min(middle.looks["app1"].started.values())
    for host in fleet.hosts:
        fresh = {
            path: at for path, (_, at) in middle.looks[host].staged.items() if path not in deployed.before[host].staged
        }
        assert len([path for path in fresh if path.startswith("/opt/testapp/static/")]) == 3
        assert max(fresh.values()) < first_process


@pytest.mark.parametrize("version", ["", "?v=H"])
def test_no_file_is_served_in_the_place_of_another_one(
    fleet: Fleet, assets_after_rollback: list[tuple[str, str, Answer]], version: str
) -> None:
    """testapp.js.gz is the application's own, and no compressed form of testapp.js, which nginx takes it for by its name."""
    asked = {"Accept-Encoding": "gzip"}
    for door in fleet.doors:
        seen = {}
        for name in ("testapp.js", "testapp.js.gz"):
            plain = get(fleet, door, f"/static/{name}")
            path = f"/static/{name}" + version.replace("H", hashlib.sha512(plain.body).hexdigest())
            answer = get(fleet, door, path, asked)
            body = gzip.decompress(answer.body) if answer.headers.get("content-encoding") == "gzip" else answer.body
            assert (answer.status, body) == (200, plain.body), (door, path)
            assert ("immutable" in answer.headers["cache-control"]) == bool(version), (door, path)
            seen[name] = body
        assert seen["testapp.js.gz"].startswith(b"A file that has the name of a compressed form"), door
