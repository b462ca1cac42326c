"""Static files are the wheel's, and compressed where it is worth it."""

import gzip
import random
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import brotli
import pytest
from support.building import wheel


@pytest.fixture(scope="module")
def static_files(helper: Callable[[str], ModuleType]) -> ModuleType:
    return helper("static_files")


def test_static_files_come_from_the_wheel(static_files: ModuleType, tmp_path: Path) -> None:
    file = wheel(
        tmp_path,
        {"board/static/a.css": "a", "board/static/img/b.svg": "b", "board/static2/c": "c", "board/x.py": ""},
    )
    for static in ("board/static", "board/static/"):
        assert static_files.static_files(file, static) == {"a.css": b"a", "img/b.svg": b"b"}


@pytest.mark.parametrize("static", ["static", "board/stat", "board/static/a.css", "nowhere"])
def test_a_static_directory_that_is_none(static_files: ModuleType, tmp_path: Path, static: str) -> None:
    file = wheel(tmp_path, {"board/static/a.css": "a"})
    with pytest.raises(static_files.Refusal) as refused:
        static_files.static_files(file, static)
    assert str(refused.value).startswith(
        f"tornado_app_static: got '{static}', below which {file.name} has no file; expected"
    )


def test_what_is_worth_it_is_compressed(static_files: ModuleType) -> None:
    text = b"body { color: teal }\n" * 100
    found = static_files.compressed("css/app.css", text)
    assert set(found) == {".gz", ".br"}
    assert gzip.decompress(found[".gz"]) == text
    assert brotli.decompress(found[".br"]) == text
    assert found == static_files.compressed("css/app.css", text), "the hour must not be in it"


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("photo.jpg", b"x" * 5000),  # compressed already, whatever it looks like
        ("noise.js", random.Random(1).randbytes(5000)),  # noqa: S311
        ("empty.css", b""),
        ("tiny.css", b"a{}"),
    ],
)
def test_what_is_not_worth_it_is_not(static_files: ModuleType, path: str, data: bytes) -> None:
    assert static_files.compressed(path, data) == {}


def test_what_is_made_beside_a_file_takes_the_place_of_none(static_files: ModuleType) -> None:
    """A file, or a directory, that has the name already is the application's."""
    text = b"let a = 1;\n" * 200
    files = {
        "pre.js": text,
        "pre.js.gz": b"another",
        "only.gz": b"1",
        "only.gz.br": b"2",
        "a.js": text,
        "a.js.br/b.css": b"x",
    }
    found = static_files.published(files)
    own = {"archives/pre.js.gz": b"another", "archives/only.gz": b"1", "archives/only.gz.br": b"2"}
    assert {name: data for name, data in found.items() if name.startswith("archives/")} == own
    assert sorted(name for name in found if name.startswith("static/")) == [
        "static/a.js", "static/a.js.br/b.css", "static/a.js.gz", "static/pre.js", "static/pre.js.br", "static/pre.js.gz",
    ]  # fmt: skip
    assert gzip.decompress(found["static/pre.js.gz"]) == text
