"""What a wheel may put where: installed by root, written by strangers."""

import io
import os
import stat
import subprocess
import sys
import zipfile
from importlib.metadata import PathDistribution
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.product import helper, load_module
from support.wheels import of_record, wheel

INFO, DATA = "board-1.0.dist-info", "board-1.0.data"


@pytest.fixture(scope="module")
def wheels() -> ModuleType:
    load_module("release")
    return helper("wheel")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return what `python -m venv` makes."""
    venv = tmp_path / "venv"
    (venv / "lib" / "python3.11" / "site-packages").mkdir(parents=True)
    (venv / "lib64").symlink_to("lib")
    (venv / "bin").mkdir()
    for name, target in (("python", "python3"), ("python3", sys.executable)):
        (venv / "bin" / name).symlink_to(target)
    (venv / "pyvenv.cfg").write_text("home = /usr/bin\n")
    return venv


@pytest.fixture
def install(wheels: ModuleType, place: Path) -> Any:
    """Install a wheel `board`, of whose making the arguments are; the directory of packages."""
    venv = wheels.Virtualenv(place)

    def run(*arguments: Any, **more: Any) -> Path:
        name, data = wheel("board", *arguments, **more)
        venv.install(io.BytesIO(data), name)
        return Path(venv.packages)

    return run


@pytest.fixture
def refused(wheels: ModuleType, place: Path, install: Any) -> Any:
    """Install a wheel that is not as it should be: what is said, after seeing that nothing else was written to."""

    def look() -> dict[Path, Any]:
        own = [place / "pyvenv.cfg", *(place / "bin").iterdir(), place / "lib64"]
        outside = [path for path in place.parent.iterdir() if path != place]
        return {path: path.readlink() if path.is_symlink() else path.stat().st_mtime_ns for path in [*own, *outside]}

    def run(*arguments: Any, **more: Any) -> str:
        before = look()
        with pytest.raises(wheels.Failure) as failure:
            install(*arguments, **more)
        assert look() == before
        said = str(failure.value)
        assert said.startswith("board-1.0-py3-none-any.whl cannot be installed: ")
        assert said.endswith(".")
        return said

    return run


def test_files_go_where_their_kind_belongs(install: Any, place: Path) -> None:
    packages = install({
        "board/__init__.py": "VERSION = 1\n",
        f"{DATA}/purelib/pure.py": "1\n",
        f"{DATA}/platlib/fast.so": b"\x7fELF",
        f"{DATA}/data/share/jupyter/x.json": "{}",
        f"{DATA}/headers/board.h": "//",
        f"{DATA}/scripts/tool": "#!python -u\nprint(1)\n",
        f"{DATA}/scripts/native": b"\x7fELF",
    })  # fmt: skip
    assert packages == place / "lib" / "python3.11" / "site-packages"
    for path in (
        "board/__init__.py", "pure.py", "fast.so", "../../../share/jupyter/x.json", "../../../bin/native",
        "../../../include/site/python3.11/board/board.h",
    ):  # fmt: skip
        assert (packages / path).is_file(), path
    assert (place / "bin" / "tool").read_text() == f"#!{place}/bin/python\nprint(1)\n"


def test_what_is_installed_is_on_record(install: Any, place: Path) -> None:
    packages = install({"board.py": "1\n", f"{DATA}/scripts/tool": "#!python\n1\n"}, "board = board:main")
    found = PathDistribution(packages / INFO)
    assert found.version == "1.0"
    assert found.files is not None
    on_record = {str(file): file for file in found.files}
    there = {
        os.path.relpath(path, packages)
        for path in [*packages.rglob("*"), place / "bin" / "board", place / "bin" / "tool"]
    }
    assert set(on_record) == {path for path in there if (packages / path).is_file()}
    for path, file in on_record.items():
        if not path.endswith("/RECORD"):
            assert file.hash is not None
            assert f"{file.hash.mode}={file.hash.value}" == of_record((packages / path).read_bytes()), path


def test_a_console_script_runs_its_function(install: Any, place: Path) -> None:
    code = "import sys\n\nclass Group:\n    def run():\n        print(sys.argv[1:])\n        return 3\n"
    install({"tool/__init__.py": "", "tool/cli.py": code}, "tool = tool.cli:Group.run [extra]")
    environment = {"PYTHONPATH": str(place / "lib" / "python3.11" / "site-packages")}
    done = subprocess.run([place / "bin" / "tool", "a b"], env=environment, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("['a b']\n", 3), done.stderr


def test_modes_are_ours(install: Any, place: Path) -> None:
    """Neither setuid nor what others may write, whatever the zip file says; a symbolic link in it is a text."""
    modes = {"board/a": 0o106777, "board/b": 0o100666, "board/c": 0o120777, f"{DATA}/scripts/tool": 0o100600}
    before = os.umask(0o022)
    try:
        packages = install(dict.fromkeys(modes, "/etc/shadow"), modes=modes)
    finally:
        os.umask(before)
    found = {path.name: path.lstat().st_mode for path in [*(packages / "board").iterdir(), place / "bin" / "tool"]}
    assert all(stat.S_ISREG(mode) for mode in found.values())
    assert {name: oct(mode & 0o7777) for name, mode in found.items()} == {
        "a": "0o755", "b": "0o644", "c": "0o755", "tool": "0o755",
    }  # fmt: skip


def test_the_last_of_two_wheels_with_one_file_has_it(install: Any, place: Path, tmp_path: Path) -> None:
    """And a file that is a hard link to another environment's is not written into."""
    packages = install({"tests/__init__.py": "one\n"})
    linked = tmp_path / "of-the-environment.py"
    linked.hardlink_to(packages / "tests" / "__init__.py")
    install({"tests/__init__.py": "other\n"})
    assert (packages / "tests" / "__init__.py").read_text() == "other\n"
    assert linked.read_text() == "one\n"


@pytest.mark.parametrize(
    "path",
    ["/etc/cron.d/board", "../board", "board/../../../../board", f"{DATA}/data/../../board", "board\n", "..", "a\x1b[2Jb"],
)  # fmt: skip
def test_a_path_that_leads_elsewhere(refused: Any, path: str) -> None:
    assert "; expected a path inside it." in refused({path: "x"})


@pytest.mark.parametrize(
    "path",
    [f"{DATA}/data/pyvenv.cfg", f"{DATA}/scripts/python", f"{DATA}/scripts/./python3", f"{DATA}/data/bin/python",
     f"{DATA}/data/lib64", f"{DATA}/data//pyvenv.cfg"],
)  # fmt: skip
def test_the_virtualenvs_own_files_are_no_wheels(refused: Any, path: str) -> None:
    assert "which is the virtualenv's own." in refused({path: "x"})


@pytest.mark.parametrize("path", [f"{DATA}/data/bin/python/x", f"{DATA}/data/lib"])
def test_a_file_where_a_directory_is_or_the_other_way(refused: Any, path: str) -> None:
    refused({path: "x"})


@pytest.mark.parametrize("path", [f"{DATA}/purelib", f"{DATA}/etc/passwd", f"{DATA}/stdlib/os.py"])
def test_data_of_no_known_kind(refused: Any, path: str) -> None:
    assert f"; expected {DATA}/ and one of purelib, platlib, scripts, data, headers." in refused({path: "x"})


def test_a_directory_that_is_called_as_data_are_is_none(install: Any) -> None:
    assert (install({f"{DATA}base/x": "x"}) / f"{DATA}base" / "x").is_file()


@pytest.mark.parametrize("name", ["../../../etc/cron.d/board", "/etc/cron.d/board", "a/b", "..", "."])
def test_a_console_script_with_a_name_that_leads_elsewhere(refused: Any, name: str) -> None:
    assert "expected a" in refused({}, f"{name} = board:main")


@pytest.mark.parametrize("target", ["board", "board:", ":main", "board:main()", "board:main\n  import os", "a b:c"])
def test_a_console_script_of_no_function(refused: Any, target: str) -> None:
    assert "; expected a file name, and module:function." in refused({}, f"board = {target}")


def test_a_console_script_called_python(refused: Any) -> None:
    assert "which is the virtualenv's own." in refused({}, "python3 = board:main")


@pytest.mark.parametrize(
    ("vouched", "said"),
    [
        ("", "RECORD has '' for the file 'board.py'; expected a hash (sha256, sha384, sha512)."),
        (
            "md5=1B2M2Y8AsgTpgAmY7PhCfg",
            "RECORD has 'md5=1B2M2Y8AsgTpgAmY7PhCfg' for the file 'board.py'; expected a hash",
        ),
        (of_record(b"other"), "the file 'board.py' has the sha256 "),
    ],
)
def test_a_file_that_record_does_not_vouch_for(refused: Any, vouched: str, said: str) -> None:
    assert said in refused({"board.py": "1\n"}, record={"board.py": vouched})


@pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
def test_hashes_that_the_specification_takes(install: Any, algorithm: str) -> None:
    install({"board.py": "1\n"}, record={"board.py": of_record(b"1\n", algorithm)})


@pytest.mark.parametrize(
    ("path", "content"),
    [
        (f"{INFO}/WHEEL", "Wheel-Version: 2.0\n"),
        (f"{INFO}/WHEEL", ""),
        (f"{INFO}/WHEEL", b"\xff"),
        (f"{INFO}/entry_points.txt", "console_scripts"),
        (f"{INFO}/entry_points.txt", "[console_scripts]\na = b:c\na = b:d\n"),
        ("other-1.0.dist-info/WHEEL", ""),
    ],
)
def test_metadata_that_is_none(refused: Any, path: str, content: str | bytes) -> None:
    refused({path: content})


@pytest.mark.parametrize("data", [b"", b"no zip file", b"PK\x05\x06" + b"\0" * 18])
def test_a_file_that_is_no_wheel(wheels: ModuleType, place: Path, data: bytes) -> None:
    with pytest.raises(wheels.Failure, match=r"^x\.whl cannot be installed: .*\.$"):
        wheels.Virtualenv(place).install(io.BytesIO(data), "x.whl")


def test_a_zip_file_that_is_damaged(wheels: ModuleType, place: Path) -> None:
    name, data = wheel("board", {"board.py": "text = 'right'\n"})
    with pytest.raises(wheels.Failure, match="Bad CRC-32"):
        wheels.Virtualenv(place).install(io.BytesIO(data.replace(b"right", b"wrong")), name)


def test_a_file_that_says_that_it_is_smaller_than_it_is(wheels: ModuleType, place: Path) -> None:
    """What is written is never more than was asked of the disk beforehand."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\n")
        archive.writestr(
            f"{INFO}/RECORD",
            f"{INFO}/WHEEL,{of_record(b'Wheel-Version: 1.0' + bytes([10]))},\nbig,{of_record(b'x')},\n",
        )
        archive.writestr("big", b"x" * 1_000_000)
    data = file.getvalue().replace((1_000_000).to_bytes(4, "little"), (1).to_bytes(4, "little"))
    with pytest.raises(wheels.Failure):
        wheels.Virtualenv(place).install(io.BytesIO(data), "board-1.0-py3-none-any.whl")
    assert sum(path.stat().st_size for path in place.rglob("big")) <= 1
