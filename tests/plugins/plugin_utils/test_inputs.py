"""What cannot be a release is refused by looking."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def inputs(helper: Callable[[str], ModuleType]) -> ModuleType:
    return helper("inputs")


@pytest.mark.parametrize(
    "factory",
    [
        "board:",
        ":make_app",
        "board:make_app()",
        "bo-ard:x",
        "a:b:c",
        "a..b:c",
        "a b:c",
    ],
)
def test_a_factory_that_is_none(inputs: ModuleType, source: Path, factory: str) -> None:
    with pytest.raises(inputs.Refusal, match=r"tornado_app_factory: got '.*'; expected package.module:factory"):
        inputs.check_inputs(str(source), source, factory)


@pytest.mark.parametrize(
    "entry",
    ["board:make_app", "a.b_c.D:e1", "_x:_y", "-m board", "-m a.b_c", "{site}/board.py", "thumbor", "my-app_2.x"],
)
def test_what_is_run(inputs: ModuleType, source: Path, entry: str) -> None:
    inputs.check_inputs(str(source), source, entry)


@pytest.mark.parametrize("entry", ["-m ", "-m a b", "-m -c", "-m board:x"])
def test_a_module_that_is_none(inputs: ModuleType, source: Path, entry: str) -> None:
    with pytest.raises(inputs.Refusal, match=r"tornado_app_command: got '-m .*'; expected '-m' and the name of a"):
        inputs.check_inputs(str(source), source, entry)


@pytest.mark.parametrize("version", ["1.0/..", "a b", "-1", "x" * 65, "1.0\n", ".."])
def test_a_release_name_that_is_none(inputs: ModuleType, source: Path, tmp_path: Path, version: str) -> None:
    with (
        pytest.raises(inputs.Refusal, match="tornado_app_version: got "),
        inputs.delivered(str(source), version, tmp_path),
    ):
        pass


def test_a_directory_is_named_as_you_like(inputs: ModuleType, source: Path, tmp_path: Path) -> None:
    for version in ("", "1.0+local_1"):
        with inputs.delivered(str(source), version, tmp_path) as found:
            assert (found.place, found.name) == (source, version)


def test_a_source_that_is_not_there(inputs: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "board.tar.gz").touch()
    (tmp_path / "empty").mkdir()
    for name in ("nowhere", "nowhere.whl", "board.tar.gz", "empty"):
        place = tmp_path / name
        with pytest.raises(inputs.Refusal) as refused:
            inputs.check_inputs(str(place), place, "a:b")
        assert str(refused.value).startswith(
            f"tornado_app_source: got '{place}'; expected a directory with a pyproject.toml, a wheel, or git+https:// "
        )


def test_a_wheel_with_a_name_that_is_none(inputs: ModuleType, tmp_path: Path) -> None:
    (file := tmp_path / "board.whl").touch()
    with (
        pytest.raises(inputs.Refusal, match=r"board\.whl'; expected a wheel's own name"),
        inputs.delivered(str(file), "", tmp_path),
    ):
        pass
