"""What cannot be imported stops on the controller."""

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from support.building import HERE, wheel, write
from support.product import helper

SCRIPTS = "board-1.0.0.dist-info/entry_points.txt"


@pytest.fixture(scope="module")
def import_check(helper: Callable[[str], ModuleType]) -> ModuleType:
    return helper("import_check")


def imported(import_check: ModuleType, tmp_path: Path, file: Path, entry: str) -> None:
    house = write(tmp_path / "house", {"requirements.txt": ""})
    (house / "wheels").mkdir()
    import_check.check_import([import_check.Wheel(file)], house, entry, helper("child").interpreter(HERE["python"]))


@pytest.mark.parametrize(
    ("files", "factory", "line"),
    [
        (
            {"board/__init__.py": "import a_module_that_is_not_there\n"},
            "board:make_app",
            "No module named 'a_module_that_is_not_there'",
        ),
        ({"board/__init__.py": "x = 1\n"}, "board:make_app", "module 'board' has no attribute 'make_app'"),
        ({"board/__init__.py": ""}, "bord:make_app", "No module named 'bord'"),
        ({"board/__init__.py": ""}, "-m board", "No module named board that can be run"),
        ({"board/__init__.py": ""}, "-m bord.chat", "No module named 'bord'"),
        ({"board/__init__.py": ""}, "{site}/board/chat.py", "site-packages/board/chat.py'"),
        (
            {SCRIPTS: "[console_scripts]\nhello = board:main\n"},
            "board",
            "no console script board; this release has: hello",
        ),
        ({SCRIPTS: "[gui_scripts]\nboard = board:main\n"}, "board", "no console script board; this release has: none"),
        ({SCRIPTS: "[console_scripts]\nboard = bord:main\n"}, "board", "No module named bord"),
    ],
)
def test_an_application_that_cannot_be_imported(
    import_check: ModuleType, tmp_path: Path, files: dict[str, str | bytes], factory: str, line: str
) -> None:
    with pytest.raises(helper("child").Refusal) as refused:
        imported(import_check, tmp_path, wheel(tmp_path, files), factory)
    message = str(refused.value)
    assert message.startswith("tornado_app_")
    assert f"'{factory}', and " in message
    assert "on the controller failed:\nTraceback" in message
    assert line in message.splitlines()[-1]


def test_a_console_script_is_looked_for_and_not_run(import_check: ModuleType, tmp_path: Path) -> None:
    """By the metadata of the wheel, whose name may be another one."""
    files: dict[str, str | bytes] = {SCRIPTS: "[console_scripts]\nhello = board.cli:main\n"}
    files |= {"board/__init__.py": "", "board/cli.py": "raise SystemExit(3)\n"}
    imported(import_check, tmp_path, wheel(tmp_path, files), "hello")


def test_the_import_sees_neither_this_environment_nor_pythonpath(
    import_check: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "lent.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "elsewhere"))
    file = wheel(tmp_path, {"board.py": "import lent\nmake_app = 1\n"})
    with pytest.raises(helper("child").Refusal, match="No module named 'lent'"):
        imported(import_check, tmp_path, file, "board:make_app")
