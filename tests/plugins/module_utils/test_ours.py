"""What a host has of the application's name, and whether it is the application's: an account, directories."""

import grp
import os
import pwd
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.product import evaluate, helper, load_module

COMMENT = "Eyewall application board"
NOBODY = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root may give files to another account")


@pytest.fixture
def ours(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    load_module("tornado_app_preflight")
    return helper("ours")


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> dict[str, pwd.struct_passwd]:
    """Return the accounts of a host, to be added to."""
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    monkeypatch.setattr(pwd, "getpwnam", known.__getitem__)
    return known


def make(
    accounts: dict[str, pwd.struct_passwd],
    name: str,
    comment: str,
    *,
    uid: int = NOBODY.pw_uid,
    gid: int = NOBODY.pw_gid,
) -> None:
    accounts[name] = pwd.struct_passwd((name, "x", uid, gid, comment, "/var/lib/board", "/usr/sbin/nologin"))


@pytest.mark.parametrize("name", ["root", "daemon", "www-data", "nobody", pwd.getpwuid(os.getuid()).pw_name])
def test_an_account_of_somebody_elses_is_refused(ours: ModuleType, name: str) -> None:
    assert ours.account_mistake(name, COMMENT) == (
        f"tornado_app_user: got '{name}', which is another account of this host; expected a name that is free here, or an "
        f"account whose comment (GECOS) is '{COMMENT}'."
    )


@pytest.mark.parametrize("name", ["tty", "adm", "shadow"])
def test_a_group_of_somebody_elses_is_refused(ours: ModuleType, name: str) -> None:
    """useradd(8) would refuse it later, in the middle of the run."""
    assert name not in {entry.pw_name for entry in pwd.getpwall()}
    assert str(ours.account_mistake(name, COMMENT)).startswith(
        f"tornado_app_user: got '{name}', which is a group of this host;"
    )


@pytest.mark.parametrize("name", ["0", "1000", "-x", "Board", "a b", "a:b", "", "a\n", "a" * 33])
def test_names_of_accounts_that_are_none(ours: ModuleType, name: str) -> None:
    """supervisord takes a number for the account that has it."""
    assert f"tornado_app_user: got {name!r}; expected 1-32 " in ours.account_mistake(name, COMMENT)


@pytest.mark.parametrize(("comment", "is_ours"), [
    (COMMENT, True), (f"{COMMENT},,,", True), ("Eyewall application other", False), ("", False), (f"x {COMMENT}", False),
])  # fmt: skip
def test_an_account_is_known_by_its_comment(
    ours: ModuleType, accounts: dict[str, pwd.struct_passwd], comment: str, is_ours: bool
) -> None:
    group = grp.getgrgid(NOBODY.pw_gid).gr_name
    make(accounts, group, comment)
    assert (ours.account_mistake(group, COMMENT) is None) == is_ours
    make(accounts, "board", comment)
    mistake = ours.account_mistake("board", COMMENT)
    assert mistake is not None
    assert ("has another group first" in mistake) == is_ours


def test_what_is_free_is_taken(ours: ModuleType) -> None:
    assert ours.account_mistake("board-that-nobody-made", COMMENT) is None


@pytest.fixture
def look(ours: ModuleType, tmp_path: Path) -> Any:
    """Return what is wrong with directories, each of its own name below tmp_path, of which `own` are listed."""

    def run(*own: str, user: str = "board-that-nobody-made", **given: Any) -> list[str]:
        names = ("root", "data", "logs", "sockets")
        directories = {f"tornado_app_{name}": str(given.get(name, tmp_path / name)) for name in names}
        file = tmp_path / "tmpfiles.conf"
        file.write_text(
            "# see tmpfiles.d(5)\n" + "".join(f"d {directories[f'tornado_app_{name}']} 0750 - - -\n" for name in own)
        )
        found: list[str] = ours.directory_mistakes(directories, str(file), user)
        return found

    return run


def test_directories_that_are_not_there(look: Any) -> None:
    assert look() == []


@pytest.mark.parametrize("name", ["root", "data", "logs", "sockets"])
def test_a_directory_is_known_by_the_file_that_lists_it(look: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    path = tmp_path / name
    sentence = (
        f"tornado_app_{name}: got '{path}', which is there and not this application's; expected a path that is free."
    )
    assert look() == [sentence]
    assert look("root", "data", "logs", "sockets") == []
    (tmp_path / name).rmdir()
    (tmp_path / name).symlink_to("nowhere")
    assert look() == [sentence]


@pytest.mark.parametrize("path", ["/etc", "/var/lib", "/home", "/srv", "/run/lock", "/var/lib/private"])
@pytest.mark.parametrize("name", ["data", "sockets"])
def test_directories_of_the_system_are_nobodys(look: Any, name: str, path: str) -> None:
    """They would be given to the account."""
    if not Path(path).exists():
        pytest.skip(f"{path} is not here")
    assert "which is there and not this application's" in look(**{name: path})[0]


@as_root
def test_a_directory_of_data_may_be_given_over(
    look: Any, open_path: Path, accounts: dict[str, pwd.struct_passwd]
) -> None:
    make(accounts, "board", COMMENT)
    data = open_path / "data"
    data.mkdir()
    (data / "restored").touch()
    assert len(look(data=data, user="board")) == 1
    os.chown(data, NOBODY.pw_uid, NOBODY.pw_gid)
    assert look(data=data, user="board") == []
    assert len(look(logs=data, user="board")) == 1, "only what the account writes anyway"


def test_an_empty_file_system_may_be_mounted_for_it(
    look: Any, ours: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    (data / "lost+found").mkdir(parents=True)
    assert len(look()) == 1
    monkeypatch.setattr(Path, "is_mount", lambda self: self in (data, Path("/srv")))
    assert look() == []
    data.chmod(0o1777)
    assert len(look()) == 1, "as /var/tmp is"
    data.chmod(0o755)
    (data / "file").touch()
    assert len(look()) == 1
    if Path("/srv").is_dir() and not any(Path("/srv").iterdir()):
        assert len(look(data="/srv")) == 1, "the system's own"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "board",
        "/a b",
        "/a\nd /etc 0777 nobody - -",
        "/a/../etc",
        "/a/.",
        "/%h",
        "/a//b",
        "/a/",
        "/ä",
        "~/x",
        "$HOME",
    ],
)
@pytest.mark.parametrize("name", ["root", "sockets"])
def test_paths_that_are_none(look: Any, name: str, path: str) -> None:
    assert look(**{name: path}) == [
        f"tornado_app_{name}: got {path!r}; expected an absolute path of letters, digits and '._+@-'."
    ]


@pytest.mark.parametrize("name", ["root", "logs", "sockets"])
def test_nothing_lies_where_the_application_writes(look: Any, tmp_path: Path, name: str) -> None:
    """It would put something else in its place, which root then reads, executes or gives away."""
    sentence = f"; expected a path that the application, which may write {tmp_path}/data, cannot change."
    assert look(**{name: tmp_path / "data" / "below" / "x"}) == [
        f"tornado_app_{name}: got '{tmp_path}/data/below/x'{sentence}"
    ]
    assert "; expected a directory for it alone." in look(**{name: tmp_path / "data"})[0]


@as_root
@pytest.mark.parametrize(("mode", "uid", "reaches"), [
    (0o755, NOBODY.pw_uid, True), (0o775, 0, True), (0o757, 0, True), (0o755, 0, False), (0o1777, 0, False),
])  # fmt: skip
def test_nor_below_what_it_may_write_for_another_reason(
    look: Any, open_path: Path, accounts: dict[str, pwd.struct_passwd], mode: int, uid: int, reaches: bool
) -> None:
    make(accounts, "board", COMMENT)
    place = open_path / "place"
    place.mkdir()
    os.chown(place, uid, NOBODY.pw_gid)
    place.chmod(mode)
    (open_path / "link").symlink_to("place")
    for way in ("place/x/opt", "link/x/opt"):
        mistakes = look(root=open_path / way, user="board")
        assert bool(mistakes) == reaches, mistakes
        assert not mistakes or f"which may write {open_path}/" in mistakes[0]


@pytest.mark.parametrize("name", ["tmp", "survive", "supervisor", "open-files", "board"])
def test_no_name_makes_a_file_that_is_anothers(name: str) -> None:
    files = [
        evaluate(f"{variable}", tornado_app_name=name)
        for variable in ("__tornado_app_file", "__tornado_app_directories_file")
    ]
    assert files == [f"eyewall-app-{name}", f"/etc/tmpfiles.d/eyewall-app-{name}.conf"]
