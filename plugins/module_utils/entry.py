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
# A console script is what a package's metadata says of it; the file in venv/bin may have been another package's before.
SCRIPT = """
from importlib.metadata import entry_points
from importlib.util import find_spec
scripts = {{script.name: script for script in entry_points(group="console_scripts")}}
if {name!r} not in scripts:
    raise LookupError("no console script {name}; this release has: " + (", ".join(sorted(scripts)) or "none"))
if not find_spec(scripts[{name!r}].module):
    raise ModuleNotFoundError("No module named " + scripts[{name!r}].module)
"""
NAME = r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*"
SCRIPT_NAME = r"\w[\w.-]*"  # what the specification of entry points recommends


def mistake(entry: str) -> str | None:
    """What is wrong with the name of what is to be run, in a sentence; None for nothing."""
    if entry.startswith("-m "):
        if re.fullmatch(NAME, entry[3:]):
            return None
        return f"tornado_app_command: got '{entry}'; expected '-m' and the name of a module."
    if entry.startswith("{site}/") or re.fullmatch(SCRIPT_NAME, entry):
        return None
    if not re.fullmatch(f"{NAME}:{NAME}", entry):
        return f"tornado_app_factory: got '{entry}'; expected package.module:factory."
    return None


def importing(entry: str) -> tuple[str, str]:
    """What to say of the question whether a release has what is to be run, and the Python code that asks it."""
    if entry.startswith("-m "):
        return f"tornado_app_command begins with '{entry}', and finding it", FIND.format(name=entry[3:])
    if entry.startswith("{site}/"):
        path = entry.removeprefix("{site}/")
        code = f"import sysconfig; open(sysconfig.get_path('purelib') + '/' + {path!r}).close()"
        return f"tornado_app_command begins with '{entry}', and opening it", code
    if ":" not in entry:
        return f"tornado_app_command begins with '{entry}', and finding it among the console scripts", SCRIPT.format(
            name=entry
        )
    module, _, attribute = entry.partition(":")
    code = f"import importlib; getattr(importlib.import_module({module!r}), {attribute!r})"
    return f"tornado_app_factory is '{entry}', and importing it", code
