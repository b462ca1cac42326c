"""What an application has on a host is read from the role's own file; molecule/apps removes one."""

from pathlib import Path
from typing import Any

import pytest
from support.product import load_module, render, run_module

module = load_module("remove_app")


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a directory in the place of /etc, with the file of an application."""
    monkeypatch.setattr(module, "ETC", tmp_path)
    (tmp_path / "tmpfiles.d").mkdir()
    places = {f"tornado_app_{name}": f"/srv/{name}" for name in ("root", "data", "logs", "sockets")}
    text = render("tornado_app/etc/tmpfiles.d/tornado-app.conf.j2", **places, tornado_app_user="somebody")
    (tmp_path / "tmpfiles.d" / "eyewall-app-board.conf").write_text(text)
    return tmp_path


def test_what_it_has_is_what_the_role_wrote(etc: Path) -> None:
    found = module.claim("board")
    assert found.file == etc / "tmpfiles.d" / "eyewall-app-board.conf"
    assert [str(path) for path in found[1:5]] == ["/srv/root", "/srv/data", "/srv/logs", "/srv/sockets"]
    assert found.user == "somebody"


def test_an_application_that_is_not_there_is_no_change(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result: dict[str, Any] = run_module(module, capsys, name="chat")
    assert (result["changed"], result["removed"], result["kept"]) == (False, [], [])


def test_one_that_is_being_deployed_is_left_alone(
    etc: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = {"release": "1.4", "owner": "ada@desk"}
    monkeypatch.setattr(module.Layout, "held", lambda self: lock)
    said = run_module(module, capsys, name="board")["msg"]
    assert said == "board: got a deploy of 1.4 by ada@desk that holds this host; expected none. Wait."
    assert (etc / "tmpfiles.d" / "eyewall-app-board.conf").exists()


def test_a_look_says_what_would_go(etc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = run_module(module, capsys, check=True, name="board")
    assert result["changed"]
    assert result["removed"] == [str(etc / "tmpfiles.d" / "eyewall-app-board.conf")], "of what is there"
    assert result["kept"] == ["/srv/data", "the account somebody"]
    assert run_module(module, capsys, check=True, name="board", data=True)["kept"] == []
    assert (etc / "tmpfiles.d" / "eyewall-app-board.conf").exists()
