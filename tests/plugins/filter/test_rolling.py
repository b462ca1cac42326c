"""In which order hosts change, and what they go back to: the filters of rolling_update.yml and rollback.yml."""

from types import ModuleType
from typing import Any

import pytest
from ansible.utils.helpers import pct_to_int
from support.product import ROLES, load_yaml, plugin


@pytest.fixture(scope="module")
def rolling() -> ModuleType:
    return plugin("filter", "rolling")


def hosts(number: int) -> list[str]:
    return [f"app{host}" for host in range(1, number + 1)]


# ---- Batches ----


@pytest.mark.parametrize(("number", "sizes"), [(1, [1]), (2, [1, 1]), (5, [1, 1, 3]), (40, [1, 10, 29])])
def test_the_role_changes_one_host_then_a_quarter_then_the_rest(
    rolling: ModuleType, number: int, sizes: list[int]
) -> None:
    found = rolling.batches(hosts(number), load_yaml(ROLES / "tornado_app/defaults/main.yml")["tornado_app_serial"])
    assert [len(batch) for batch in found] == sizes
    assert [host for batch in found for host in batch] == hosts(number), "every host has its turn, in its order"


@pytest.mark.parametrize(
    ("number", "given", "sizes"),
    [
        (5, ["2"], [2, 2, 1]),
        (5, [1, "2"], [1, 2, 2]),
        (3, ["1%"], [1, 1, 1]),
        (3, ["100%"], [3]),
        (3, ["9"], [3]),
        (8, ["25%"], [2, 2, 2, 2]),
        (7, ["50%", "1"], [3, 1, 1, 1, 1]),
        (0, ["1"], []),
    ],
)
def test_the_last_size_is_used_again(
    rolling: ModuleType, number: int, given: list[str | int], sizes: list[int]
) -> None:
    assert [len(batch) for batch in rolling.batches(hosts(number), given)] == sizes


def test_batches_leave_what_they_are_given(rolling: ModuleType) -> None:
    given, sizes = hosts(3), ["1", "2"]
    rolling.batches(given, sizes)
    assert (given, sizes) == (hosts(3), ["1", "2"])


@pytest.mark.parametrize("share", ["1%", "25%", "33%", "99%", "100%"])
def test_a_share_is_as_many_hosts_as_ansibles_serial_takes(rolling: ModuleType, share: str) -> None:
    for number in range(1, 60):
        assert len(rolling.batches(hosts(number), [share])[0]) == pct_to_int(share, number)


# ---- What hosts go back to ----


def kept(
    *releases: str, current: str | None = None, before: str | None = None, lock: dict[str, str] | None = None
) -> dict[str, Any]:
    """Return what app_info says of a host that keeps one generation of each release, the newest first."""
    return {
        "tornado_app_info": {
            "generations": [
                {
                    "name": f"board-{release}-abcdef",
                    "release": release.partition("/")[0],
                    "current": release == current,
                    "before": release == before,
                    "ports": [8000, 8001],
                }
                for release in releases
            ],
            "lock": lock,
        }
    }


def test_every_host_goes_back_to_the_one_before(rolling: ModuleType) -> None:
    # not to the newest that is not current: that one may never have served, or have failed
    hostvars = {
        "app1": kept("1.3", "1.2", "1.1", "1.0", current="1.2", before="1.0"),
        "app2": kept("1.2", "1.0", current="1.2", before="1.0"),
    }
    found = rolling.rollback_goal(["app1", "app2"], hostvars, "")
    assert found["refusal"] == ""
    assert {host: goal["name"] for host, goal in found["goals"].items()} == dict.fromkeys(hostvars, "board-1.0-abcdef")
    assert found["goals"]["app1"]["ports"] == [8000, 8001]


def test_hosts_go_back_to_a_release_by_its_name(rolling: ModuleType) -> None:
    hostvars = {
        "app1": kept("1.2", "1.0", current="1.2", before="1.0"),
        "app2": kept("1.2", "1.1/new settings", "1.1", current="1.2", before="1.1"),
        "app3": kept("1.2", "1.1", "1.0", current="1.2"),
    }
    found = rolling.rollback_goal(["app2", "app3"], hostvars, "1.1")
    assert found["refusal"] == "", "app1 is not asked"
    assert {host: goal["name"] for host, goal in found["goals"].items()} == {
        "app2": "board-1.1/new settings-abcdef",  # the last with that release
        "app3": "board-1.1-abcdef",
    }


def test_a_release_that_a_host_does_not_keep(rolling: ModuleType) -> None:
    hostvars = {
        "app1": kept("1.2", "1.1", current="1.2", before="1.1"),
        "app2": kept("1.2", "1.0", current="1.2", before="1.0"),
        "app3": kept(),
    }
    found = rolling.rollback_goal(list(hostvars), hostvars, "1.1")
    assert found["refusal"] == (
        "tornado_app_version is '1.1', which is not on app2, app3. "
        "Expected is a release that every host keeps, as in -e tornado_app_version=RELEASE:\n"
        "  app1: 1.2 (current), 1.1\n"
        "  app2: 1.2 (current), 1.0\n"
        "  app3: none"
    )
    assert found["goals"]["app2"] is None


def test_nothing_was_there_before(rolling: ModuleType) -> None:
    hostvars = {
        "app1": kept("1.2", "1.1", current="1.2", before="1.1"),
        "app2": kept("1.2", "1.1", current="1.2"),
    }
    found = rolling.rollback_goal(list(hostvars), hostvars, "")
    assert found["refusal"] == (
        "There is nothing to go back to on app2: no release was there before the current one. "
        "Expected is a release that every host keeps, as in -e tornado_app_version=RELEASE:\n"
        "  app1: 1.2 (current), 1.1\n"
        "  app2: 1.2 (current), 1.1"
    )


def test_hosts_do_not_go_back_to_different_releases(rolling: ModuleType) -> None:
    hostvars = {
        "app1": kept("1.2", "1.1", current="1.2", before="1.1"),
        "app2": kept("1.2", "1.1", "1.0", current="1.2", before="1.0"),
    }
    found = rolling.rollback_goal(list(hostvars), hostvars, "")
    assert found["refusal"].startswith("The hosts would go back to different releases. Expected is ")
    assert found["refusal"].endswith("\n  app1: 1.2 (current), 1.1\n  app2: 1.2 (current), 1.1, 1.0")
    # and a name settles it
    assert rolling.rollback_goal(list(hostvars), hostvars, "1.1")["refusal"] == ""


def test_both_filters_have_their_names(rolling: ModuleType) -> None:
    filters = rolling.FilterModule().filters()
    assert filters == {"batches": rolling.batches, "rollback_goal": rolling.rollback_goal}


def test_a_rollback_that_was_killed_is_finished_and_goes_no_further(rolling: ModuleType) -> None:
    lock = {"verb": "rollback", "release": "2", "wanted": "board-2-abcdef"}
    there = {
        "app1": kept("2", "3", "1", current="2", before="1", lock=lock),
        "app2": kept("3", "2", "1", current="3", before="2", lock=lock),
        "app3": kept("3", "2", "1", current="3", before="2"),  # it was killed before this one had its lock
    }
    found = rolling.rollback_goal(list(there), there, "")
    assert found["refusal"] == ""
    assert {goal["release"] for goal in found["goals"].values()} == {"2"}
    named = rolling.rollback_goal(list(there), there, "1")
    assert {goal["release"] for goal in named["goals"].values()} == {"1"}, "a release by its name goes before"
    deploys = {host: kept("3", "2", "1", current="3", before="2", lock=lock | {"verb": "deploy"}) for host in there}
    assert {goal["release"] for goal in rolling.rollback_goal(list(there), deploys, "")["goals"].values()} == {"2"}
