"""Refuse a variable that looks like a role's input and is none, and a value that YAML has changed: neither may pass silently."""

import datetime
import difflib
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase

ROLES = Path(__file__).resolve().parents[2] / "roles"
# Nobody else's role has a name like these. Variables of the others' prefixes may be another role's, and are left alone unless
# they are nearly ours: every letter left out, changed or swapped in any name of ours is nearer than this.
OURS = {"tornado_app", "open_files"}
NEAR = 0.88


def role_inputs(roles: Path = ROLES) -> dict[str, set[str]]:
    """The variables that each role takes, from its `meta/argument_specs.yml`."""
    inputs = {}
    for spec in sorted(roles.glob("*/meta/argument_specs.yml")):
        entry_points = yaml.safe_load(spec.read_text(encoding="utf-8"))["argument_specs"]
        inputs[spec.parts[-3]] = {name for entry in entry_points.values() for name in entry.get("options", {})}
    return inputs


def unknown_variables(names: list[str], inputs: dict[str, set[str]]) -> list[tuple[str, str, str | None]]:
    """Name, role and nearest known variable of each name that is meant for a role, and is not its input."""
    found = []
    for name in names:
        role = next((role for role in inputs if name.startswith(f"{role}_")), None)
        if role and not any(name in known for known in inputs.values()):
            near = difflib.get_close_matches(name, inputs[role], n=1, cutoff=0.6 if role in OURS else NEAR)
            if near or role in OURS:
                found.append((name, role, near[0] if near else None))
    return found


def text_inputs(roles: Path = ROLES) -> set[str]:
    """The variables that hold text: a string, or a list of strings."""
    found = set()
    for spec in roles.glob("*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(spec.read_text(encoding="utf-8"))["argument_specs"].values():
            options = entry.get("options", {})
            found |= {name for name, option in options.items() if "str" in (option.get("type"), option.get("elements"))}
    return found


def changed_by_yaml(value: Any, text: bool) -> str | None:
    """What a value became that was written without quotes, in words; None for one that is as it was written.

    YAML 1.1 makes `1.10` 1.1, `yes` true, and `2026-11-26T09:00Z` another text for the same moment; where `text` is wanted,
    none of them can be told from what was meant. An integer is left alone: many inputs are a number or a word.
    """
    if isinstance(value, dict | list | tuple):
        parts = value.values() if isinstance(value, dict) else value
        return next(
            (found for part in parts if (found := changed_by_yaml(part, text and not isinstance(value, dict)))), None
        )
    if isinstance(value, datetime.date | bytes):
        return "a date" if isinstance(value, datetime.date) else "binary data"
    if text and isinstance(value, bool):
        return f"true or false ({str(value).lower()})"
    return f"a number ({value})" if text and isinstance(value, float) else None


def place(value: Any) -> str:
    """Where Ansible read a value (`path:line: `), or nothing where it does not say."""
    try:
        from ansible._internal._datatag._tags import Origin  # noqa: PLC0415 -- internal, so it may go away
    except ImportError:
        return ""
    origin = Origin.get_tag(value)
    return f"{origin.path}:{origin.line_num}: " if origin and origin.path else ""


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        inputs = role_inputs()
        sentences = [
            f"{place(variables[name])}{name} is not a variable of the role {role}"
            + (f"; did you mean {near}?" if near else ".")
            + f" Allowed: see roles/{role}/README.md."
            for name, role, near in unknown_variables(sorted(variables), inputs)
        ]
        texts = text_inputs()
        sentences += [
            f"{place(variables[name])}{name}: got {changed}; expected a string. Put the value in quotes."
            for name in sorted(variables)
            if any(name in known for known in inputs.values())
            if (changed := changed_by_yaml(variables[name], name in texts))
        ]
        if sentences:
            result.update(failed=True, msg=" ".join(sentences))
        return result
