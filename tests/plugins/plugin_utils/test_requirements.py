"""Hosts get the application's lock, and of the runner's what that lacks; what does not go together is refused."""

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import REPOSITORY
from support.building import HASH, wheel
from support.product import TARGET, helper, load_yaml

RUNNER_LOCKS = {path.stem: path for path in (REPOSITORY / "requirements").glob("runner*.txt")}


@pytest.fixture(scope="module")
def requirements(helper: Callable[[str], ModuleType]) -> ModuleType:
    return helper("requirements")


def test_what_an_application_needs_and_the_lock_file_lacks(requirements: ModuleType, tmp_path: Path) -> None:
    """It may be imported at the first request only."""
    needs = "".join(
        f"Requires-Dist: {need}\n"
        for need in (
            "lent>=2 ; python_version < '3.12'",
            "windows ; sys_platform == 'win32'",
            "x ; extra == 'x'",
            "old (>=2011k)",
        )
    )
    board, lent = (
        requirements.Wheel(wheel(tmp_path, {}, needs=needs)),
        requirements.Wheel(wheel(tmp_path, {}, name="lent")),
    )
    requirements.check_needs([board], TARGET | {"python": "3.13", "python_full": "3.13.1"})
    for there, has in (([board], "no lent"), ([board, lent], "lent==1.0.0")):
        with pytest.raises(requirements.Refusal) as refused:
            requirements.check_needs(there, TARGET)
        assert str(refused.value).startswith(
            f"tornado_app_requirements: got {has}; expected 'lent>=2; python_version < "
        )
        assert ", which 'board' needs. Make the lock with" in str(refused.value)


def test_a_version_for_another_target_or_server_is_no_matter(requirements: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(f"tornado==6.1 ; python_version < '3.11' {HASH}\ngunicorn==20.0 {HASH}\n")
    lock = helper("lockfile").read_lock("tornado_app_requirements", tmp_path / "lock")
    ours = helper("lockfile").read_lock("runner_lock", RUNNER_LOCKS["runner"])
    pins, (pinned,) = requirements.union(lock, ours, requirements.needs_of(REPOSITORY / "runner", []), [TARGET])
    names = {pin.name: pin.version for pin in pinned}
    assert names.keys() == {"gunicorn", "prometheus-client", "tornado", "uvloop"}
    assert names["tornado"] != "6.1"
    # a release is named by both: one is of other hosts
    assert [pin.name for pin in pins].count("tornado") == 2


@pytest.mark.parametrize(("name", "extras"), [("runner", []), ("runner-gunicorn", ["gunicorn"])])
def test_the_runners_lock_has_what_the_runner_needs(requirements: ModuleType, name: str, extras: list[str]) -> None:
    lock = helper("lockfile").read_lock("runner_lock", RUNNER_LOCKS[name])
    needs = requirements.needs_of(REPOSITORY / "runner", extras)
    for target in (TARGET, TARGET | {"python": "3.13", "python_full": "3.13.5", "machine": "aarch64"}):
        locked = helper("lockfile").for_target("runner_lock", lock.pins, target)
        requirements.check_admitted(needs, locked, target)
        assert {canonicalize_name(Requirement(need).name) for need in needs} <= locked.keys()
    assert "://" not in RUNNER_LOCKS[name].read_text()


def test_the_runners_locks_are_part_of_the_collection_and_what_the_role_hands_over() -> None:
    ignored = load_yaml(REPOSITORY / "galaxy.yml")["build_ignore"]
    tasks = (REPOSITORY / "roles/tornado_app/tasks/preflight.yml").read_text()
    line = re.search(r"^ +runner_lock: \"(.*)\"$", tasks, re.MULTILINE)
    assert line
    for server, name in (("tornado", "runner"), ("gunicorn", "runner-gunicorn")):
        variables = {"role_path": f"{REPOSITORY}/roles/tornado_app", "tornado_app_server": server}
        path = Templar(DataLoader(), variables).template(trust_as_template(line[1]))
        assert Path(path).resolve() == RUNNER_LOCKS[name]
        assert not [pattern for pattern in ignored if RUNNER_LOCKS[name].relative_to(REPOSITORY).match(pattern)]
