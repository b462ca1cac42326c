"""``package.module:factory``: from a name to an application."""

import importlib
import inspect
import re
import traceback
from typing import Any

from tornado.web import Application

from eyewall.errors import Refusal

TARGET = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<attribute>[^\W\d]\w*(\.[^\W\d]\w*)*)")


async def load(target: str) -> Application:
    """Import the module and return its application.

    The attribute is an `Application`, or a factory called without arguments, which may be a coroutine
    function. Runs on the loop, so that a factory may use ``IOLoop.current()``.

    Raises `Refusal`, with the traceback if the application's own code raised.
    """
    return await build(find(target), target)


async def build(found: Any, name: str) -> Application:
    """Return the application that `found` is, or makes; `name` is what a `Refusal` calls it."""
    if not isinstance(found, Application):
        if not callable(found):
            raise Refusal(f"{name}: got {type(found).__name__}; expected a tornado.web.Application or a factory")
        try:
            found = found()
            if inspect.isawaitable(found):
                found = await found
        except Refusal:
            raise
        except (Exception, SystemExit) as error:
            raise Refusal(f"{name}: the factory raised {summary(error)}") from error
    if not isinstance(found, Application):
        raise Refusal(f"{name}: got {type(found).__name__} from the factory; expected a tornado.web.Application")
    return found


def find(target: str) -> Any:
    """Import the module and return the attribute. Raises `Refusal`."""
    match = TARGET.fullmatch(target)
    if match is None:
        raise Refusal(
            f"cannot run {target!r}: expected package.module:factory, as in board:make_app, "
            "or a program: program.py, -m package, or a console script of what is installed"
        )
    module_name, attribute = match["module"], match["attribute"]
    try:
        found: Any = importlib.import_module(module_name)
    except Refusal:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise Refusal(f"{target}: there is no module {error.name!r} on sys.path") from None
        raise Refusal(f"{target}: importing {module_name} raised {summary(error)}") from error
    except (Exception, SystemExit) as error:
        raise Refusal(f"{target}: importing {module_name} raised {summary(error)}") from error
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise Refusal(f"{target}: {module_name} has no attribute {attribute!r}") from None
    return found


def summary(error: BaseException) -> str:
    """Say what was raised, in a line, as the last line of its traceback does."""
    return traceback.format_exception_only(error)[-1].strip()
