"""What the runner uses of Tornado's and gunicorn's private names is in one list, and is there in the installed versions."""

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from eyewall import private

SOURCE = Path(private.__file__).parent
# Private names of Python's own library, and fields of namedtuple.
OTHERS = {
    "_current_frames",
    "_exit",
    "_get_backend_id",
    "_getframe",
    "_loop_factory",
    "_replace",
    "_selector",
    "_close_idle",
}
FILES = sorted(path for path in SOURCE.glob("*.py") if path.name != "private.py")


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own(tree: ast.AST) -> Iterator[str]:
    """Private names that a file defines: functions, classes, variables, and attributes of its objects."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case (
                ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store())
            ):
                yield name


def used(tree: ast.AST) -> Iterator[str]:
    """Private names that a file takes from something, and those that it imports from another package."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name) if is_private(name):
                yield name
            case ast.Call(
                func=ast.Name(id="getattr" | "setattr" | "hasattr"), args=[_, ast.Constant(value=str(name)), *_]
            ):
                if is_private(name):
                    yield name
            case ast.ImportFrom(module=module, names=names) if not str(module).startswith("eyewall"):
                yield from (alias.name for alias in names if is_private(alias.name))


LISTED = {name for names in private.ATTRIBUTES.values() for name in names}


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_a_file_uses_no_other_private_name(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    assert set(used(tree)) - set(own(tree)) - OTHERS <= LISTED


def test_a_private_name_that_is_not_listed_is_found() -> None:
    """The control."""
    tree = ast.parse(
        "from tornado.web import _x\nclass A(B):\n    def _c(self):\n        self._c(); self._y; getattr(z, '_w')\n"
    )
    assert set(used(tree)) - set(own(tree)) == {"_x", "_y", "_w"}


@pytest.mark.parametrize("name", sorted(LISTED))
def test_a_name_that_is_listed_is_used(name: str) -> None:
    assert any(re.search(rf"\b{name}\b", path.read_text(encoding="utf-8")) for path in FILES)


@pytest.mark.parametrize(
    ("owner", "name"), [(owner, name) for owner, names in private.ATTRIBUTES.items() for name in names]
)
def test_the_installed_version_has_it(owner: str, name: str) -> None:
    """In the class or where it is set: an instance has some of them."""
    module, _, kind = owner.rpartition(".")
    source = inspect.getsource(getattr(importlib.import_module(module), kind))
    if owner == "tornado.httputil.HTTPHeaders" and "_combined_cache" not in source:
        pytest.skip("Tornado 6.5.0 to 6.5.2 has other attributes, of which none is used")
    assert re.search(rf"\b{name}\b", source)
