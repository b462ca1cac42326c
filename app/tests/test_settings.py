import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from board import make_app
from board.settings import Settings
from support.board import PASSWORD_HASH, SECRET


def read(tmp_path: Path, **values: str) -> Settings:
    return Settings.read({"BOARD_COOKIE_SECRET": SECRET, "BOARD_DATA": str(tmp_path / "data"), **values})


def test_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("board.settings.version", lambda name: {"board": "7.8.9"}[name])
    settings = read(tmp_path)
    assert settings.max_upload == 50 * 1024 * 1024
    assert settings.password_hash == ""
    assert settings.port is None
    assert settings.release == "7.8.9"
    assert settings.name == "Eyewall board"
    assert settings.data.is_dir()


def test_an_empty_value_is_no_value(tmp_path: Path) -> None:
    settings = read(tmp_path, BOARD_MAX_UPLOAD="", PORT="", RELEASE="", BOARD_NAME="", BOARD_PASSWORD_HASH="")
    assert settings == read(tmp_path)


def test_the_data_directory_defaults_to_the_temporary_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert Settings.read({"BOARD_COOKIE_SECRET": SECRET}).data == tmp_path / "board-data"


def test_settings_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOARD_COOKIE_SECRET", SECRET)
    monkeypatch.setenv("BOARD_DATA", str(tmp_path))
    monkeypatch.setenv("RELEASE", "from-the-environment")
    assert make_app().settings["board"].settings.release == "from-the-environment"


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("BOARD_COOKIE_SECRET", "", "at least 32 characters is required"),
        ("BOARD_COOKIE_SECRET", "only-this-long", "at least 32 random ones are required"),
        ("BOARD_PASSWORD_HASH", "hunter2", "`python -m board.password` prints is allowed"),
        ("BOARD_PASSWORD_HASH", "$argon2id$v=19$broken", "`python -m board.password` prints is allowed"),
        ("BOARD_MAX_UPLOAD", "50M", "a whole number from 1 to "),
        ("BOARD_MAX_UPLOAD", "0", "a whole number from 1 to "),
        ("BOARD_MAX_UPLOAD", "-1", "a whole number from 1 to "),
        ("BOARD_MAX_UPLOAD", "9" * 5000, "a whole number from 1 to "),
        ("BOARD_MAX_UPLOAD", "²", "a whole number from 1 to "),
        ("PORT", "http", "a whole number from 1 to 65535 is allowed"),
        ("PORT", "65536", "a whole number from 1 to 65535 is allowed"),
        ("RELEASE", "1.0\nSet-Cookie: x", "printable characters on one line are allowed"),
        ("BOARD_NAME", "x" * 101, "up to 100 printable characters"),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(tmp_path: Path, name: str, value: str, allowed: str) -> None:
    with pytest.raises(ValueError, match=name) as caught:
        read(tmp_path, **{name: value})
    message = str(caught.value)
    assert allowed in message
    assert "\n" not in message
    assert len(message) < 300
    if value and name in ("BOARD_COOKIE_SECRET", "BOARD_PASSWORD_HASH"):
        assert value not in message
    elif value:
        assert repr(value)[1:50].rstrip("'") in message


def test_a_data_directory_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()
    with pytest.raises(ValueError, match=r"BOARD_DATA is '.*a-file/below'.*allowed"):
        read(tmp_path, BOARD_DATA=str(tmp_path / "a-file" / "below"))


def test_a_data_directory_that_is_read_only() -> None:
    # /proc is read-only in effect even for root, for whom permission bits mean nothing.
    with pytest.raises(ValueError, match=r"BOARD_DATA is '/proc', where nothing can be written"):
        Settings.read({"BOARD_COOKIE_SECRET": SECRET, "BOARD_DATA": "/proc"})


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    shown = repr(read(tmp_path, BOARD_PASSWORD_HASH=PASSWORD_HASH))
    assert SECRET not in shown
    assert PASSWORD_HASH not in shown


def test_the_release_is_the_version_of_the_package(tmp_path: Path) -> None:
    release = read(tmp_path).release
    try:
        assert release == version("board")
    except ModuleNotFoundError:
        assert release == "unpackaged"


def run(module: str, *arguments: str, stdin: str = "", **values: str) -> subprocess.CompletedProcess[str]:
    source = str(Path(__file__).resolve().parents[1] / "src")
    environment = {**os.environ, "PYTHONPATH": source, **values}
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", module, *arguments],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


def test_password_prints_a_hash_that_is_accepted(tmp_path: Path) -> None:
    done = run("board.password", stdin="correct horse battery\n")
    assert done.returncode == 0, done.stderr
    assert read(tmp_path, BOARD_PASSWORD_HASH=done.stdout.strip()).password_hash.startswith("$argon2id$")
    assert "correct horse" not in done.stdout + done.stderr


def test_a_short_password_is_refused() -> None:
    done = run("board.password", stdin="short\n")
    assert done.returncode == 1
    assert "8 to 1024 are allowed" in done.stderr
    assert done.stdout == ""


def test_the_program_says_which_setting_is_wrong(tmp_path: Path) -> None:
    done = run("board", "--port=0", BOARD_DATA=str(tmp_path), BOARD_MAX_UPLOAD="lots")
    assert done.returncode == 1
    assert "BOARD_MAX_UPLOAD is 'lots'" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_happens_at_import() -> None:
    code = "import board, board.password; print('quiet')"
    source = str(Path(__file__).resolve().parents[1] / "src")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={"PYTHONPATH": source, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "quiet\n", "")
