"""Refuse a variable that looks like a role's input and is none: a typo must not pass silently."""

import difflib
from pathlib import Path
from typing import Any

import yaml
from ansible.plugins.action import ActionBase

ROLES = Path(__file__).resolve().parents[2] / "roles"


def role_inputs(roles: Path = ROLES) -> dict[str, set[str]]:
    """The variables that each role takes, from its `meta/argument_specs.yml`."""
    inputs = {}
    for spec in sorted(roles.glob("*/meta/argument_specs.yml")):
        entry_points = yaml.safe_load(spec.read_text(encoding="utf-8"))["argument_specs"]
        inputs[spec.parts[-3]] = {name for entry in entry_points.values() for name in entry.get("options", {})}
    return inputs


def unknown_variables(names: list[str], inputs: dict[str, set[str]]) -> list[tuple[str, str, str | None]]:
    """Name, role and nearest known variable of each name that has a role's prefix and is not its input."""
    found = []
    for name in names:
        role = next((role for role in inputs if name.startswith(f"{role}_")), None)
        if role and not any(name in known for known in inputs.values()):
            near = difflib.get_close_matches(name, inputs[role], n=1)
            found.append((name, role, near[0] if near else None))
    return found


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
        sentences = [
            f"{place(variables[name])}{name} is not a variable of the role {role}"
            + (f"; did you mean {near}?" if near else ".")
            + f" Allowed: see roles/{role}/README.md."
            for name, role, near in unknown_variables(sorted(variables), role_inputs())
        ]
        if sentences:
            result.update(failed=True, msg=" ".join(sentences))
        return result
