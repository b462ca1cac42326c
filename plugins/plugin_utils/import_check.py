"""Whether what is to be run can be imported, which the controller sees before any host does."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.eyewall.tornado.plugins.module_utils.entry import importing
from ansible_collections.eyewall.tornado.plugins.plugin_utils.builder import Wheel
from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import IMPORT_SECONDS, make_venv, scratch
from ansible_collections.eyewall.tornado.plugins.plugin_utils.wheelhouse import hashed


def check_import(wheels: list[Wheel], house: Path, entry: str, python: str) -> None:
    """Look for what is to be run in a virtualenv of its own. Raises Refusal with the traceback's end."""
    with scratch() as place:
        lines = (house / "requirements.txt").read_text(encoding="utf-8").splitlines()
        lines += [f"{wheel.name}=={wheel.version} --hash=sha256:{hashed(wheel.path)}" for wheel in wheels]
        where = [house / "wheels", *(wheel.path.parent for wheel in wheels)]
        interpreter = make_venv(place, python, lines, where, "Installing the application on the controller")
        doing, code = importing(entry)
        place.run([interpreter, "-c", code], f"{doing} on the controller", IMPORT_SECONDS)
