"""What is run: how it is named, and how a release is asked whether it is there."""

from __future__ import annotations

import re

# Python's own form of "does `-m NAME` find something to run" (runpy).
FIND = """
from importlib.util import find_spec
found = find_spec({name!r})
if found and found.submodule_search_locations is not None:
    found = find_spec({name!r} + ".__main__")
if not found:
    raise ModuleNotFoundError("No module named " + {name!r} + " that can be run")
"""
NAME = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"


def mistake(entry: str) -> str | None:
    """What is wrong with the name of what is to be run, in a sentence; None for nothing."""
    if entry.startswith("-m "):
        if re.fullmatch(NAME, entry[3:]):
            return None
        return f"tornado_app_command begins with '{entry}'; allowed is '-m' and the name of a module."
    if entry.startswith("{site}/"):
        return None
    if not re.fullmatch(f"{NAME}:{NAME}", entry):
        return f"tornado_app_factory is '{entry}'; allowed is package.module:factory."
    return None


def importing(entry: str) -> tuple[str, str]:
    """What to say of the question whether a release has what is to be run, and the Python code that asks it."""
    if entry.startswith("-m "):
        return f"tornado_app_command begins with '{entry}', and finding it", FIND.format(name=entry[3:])
    if entry.startswith("{site}/"):
        path = entry.removeprefix("{site}/")
        code = f"import sysconfig; open(sysconfig.get_path('purelib') + '/' + {path!r}).close()"
        return f"tornado_app_command begins with '{entry}', and opening it", code
    module, _, attribute = entry.partition(":")
    code = f"import importlib; getattr(importlib.import_module({module!r}), {attribute!r})"
    return f"tornado_app_factory is '{entry}', and importing it", code
