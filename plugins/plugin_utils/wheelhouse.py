"""The wheels of all requirements of one kind of host: fetched, and built where no index has one."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

from ansible_collections.eyewall.tornado.plugins.plugin_utils.builder import Builder, Wheel, download
from ansible_collections.eyewall.tornado.plugins.plugin_utils.bundle import BUNDLE_FORM, digest
from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import Refusal
from ansible_collections.eyewall.tornado.plugins.plugin_utils.lockfile import Pin
from ansible_collections.eyewall.tornado.plugins.plugin_utils.target import target_name
from packaging.utils import canonicalize_name


def wheelhouse(builder: Builder, pins: list[Pin], target: dict[str, str]) -> Path:
    """A directory with a wheel of each requirement for a target and their hashes, checked; kept between runs."""
    key = digest(BUNDLE_FORM, *(pin.statement for pin in pins), builder.fingerprint)
    house = builder.build / "wheelhouses" / f"{target_name(target)}-{key[:16]}"
    if house.exists():
        return house
    house.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=house.parent) as unfinished:
        wheels = Path(unfinished, "house", "wheels")
        wheels.mkdir(parents=True)
        lines = {pin.name: pin.line() for pin in pins}
        made = [Wheel(path) for path in fetched(builder, {pin.name: pin for pin in pins}, target, wheels)]
        # hosts compare SHA-256, which a lock file need not have
        other = {pin.name for pin in pins if not any(one.startswith("sha256:") for one in pin.hashes)}
        made += [wheel for path in wheels.iterdir() if other and (wheel := Wheel(path)).name in other]
        for wheel in made:
            lines[wheel.name] = f"{wheel.name}=={wheel.version} --hash=sha256:{hashed(wheel.path)}"
        (wheels.parent / "requirements.txt").write_text(
            "".join(f"{line}\n" for line in lines.values()), encoding="utf-8"
        )
        wheels.parent.rename(house)
    return house


def hashed(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def fetched(builder: Builder, pins: dict[str, Pin], target: dict[str, str], wheels: Path) -> list[Path]:
    """Fetch wheels, and build those that no index has; the ones that were built."""
    made: list[Path] = []
    doing = f"Getting the wheels of tornado_app_requirements for {target_name(target)}"
    while pins:
        try:
            lines = [*builder.index, *(pin.line() for pin in pins.values())]
            download(lines, wheels, doing, target["python_full"], target)
            break
        except Refusal as refusal:
            said = str(refusal)
            lacking = re.search(r"(?:No matching distribution found for |Package ')([\w.-]+)", said)
            if not lacking or canonicalize_name(lacking[1]) not in pins:
                raise
            pin = pins.pop(canonicalize_name(lacking[1]))
            wanted = re.search(rf"(?<![\w.]){re.escape(pin.version)} Requires-Python ([^;\n]+)", said)
            if wanted := wanted or re.search(r"requires a different Python: \S+ not in '([^']+)'", said):
                raise Refusal(
                    f"tornado_app_requirements: got '{pin.requirement}' ({pin.place}), which needs Python {wanted[1]}; expected "
                    f"a version for Python {target['python_full']}, which hosts have."
                ) from None
            try:
                made.append(builder.of_source(pin))
            except Refusal as other:
                raise Refusal(
                    f"tornado_app_requirements: got '{pin.requirement}' ({pin.place}), which has no wheel for "
                    f"{target_name(target)}; expected one, or a source distribution in pure Python. {other}\n{refusal}"
                ) from None
    for wheel in made:
        shutil.copyfile(wheel, wheels / wheel.name)
    return made
