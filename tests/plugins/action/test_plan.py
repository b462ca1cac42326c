"""A plan is refused where it names files that are not there; generations are in tests/roles/test_supervisor_conf.py."""

from pathlib import Path

from support.product import plugin

mistaken = plugin("action", "plan").mistaken_task_files


def test_files_of_tasks_have_to_be_there(tmp_path: Path) -> None:
    (tmp_path / "before.yml").write_text("[]\n")
    here, missing = str(tmp_path / "before.yml"), str(tmp_path / "after.yml")
    assert mistaken({"tornado_app_before_tasks": here, "tornado_app_after_tasks": ""}) == []
    expected = "expected the absolute path of a file of tasks on the controller, or ''."
    assert mistaken({"tornado_app_before_tasks": "before.yml", "tornado_app_after_tasks": missing}) == [
        f"tornado_app_before_tasks: got 'before.yml'; {expected}",
        f"tornado_app_after_tasks: got '{missing}'; {expected}",
    ]
