"""A variable that looks like a role's input and is none, and a value that YAML has changed: neither may pass silently."""

import datetime
import difflib
import functools
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load

ROLES = Path(__file__).resolve().parents[2] / "roles"
# Nobody else's role has a name like these. Variables of the others' prefixes may be another role's, and are left alone unless
# they are nearly ours: every letter left out, changed or swapped in any name of ours is nearer than this.
OURS = {"tornado_app", "open_files"}
NEAR = 0.88
# What a value is called that a role wants, by the type in its argument_specs.
FORMS = {
    "str": "a string",
    "path": "a path",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list, as in [one, two]",
    "dict": "a mapping, as in {NAME: value}",
}
# Facts that roles export in a run (roles/*/README.md): no inventory sets them.
FACTS = {"tornado_app_info", "tornado_app_plan", "tornado_app_ports_changed"}
# Inputs of earlier versions, and what they are called now (docs/upgrading.md has the same table).
RENAMED = {
    "fleet_capabilities": "local_containers_capabilities",
    "fleet_machine": "local_containers_machine",
    "fleet_name": "local_containers_name",
    "fleet_publish": "local_containers_publish",
    "fleet_state": "local_containers_state",
    "fleet_suite": "local_containers_suite",
    "fleet_tmpfs": "local_containers_tmpfs",
    "fleet_volumes": "local_containers_volumes",
    "haproxy_backend": "haproxy_applications",
    "haproxy_health_host": "haproxy_applications",
    "haproxy_health_path": "haproxy_applications",
    "haproxy_server_name": "haproxy_applications",
    "haproxy_servers": "haproxy_applications",
    "haproxy_static_paths": "haproxy_applications",
    "open_files_user": "open_files_users",
    "tornado_app_batch": "tornado_app_parallel_processes",
    "tornado_app_drain": "tornado_app_drain_timeout",
    "tornado_app_lock": "tornado_app_requirements",
    "tornado_app_lock_seconds": "tornado_app_deploy_lock_timeout",
    "tornado_app_rolling": "tornado_app_serial",
    "tornado_app_settle": "tornado_app_min_ready_seconds",
    "tornado_app_watchdog": "tornado_app_watchdog_timeout",
}
BOOLEANS = {
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
    "t",
    "f",
    "1",
    "0",
    "1.0",
    "0.0",
}  # as Ansible has them


@functools.cache
def role_options(roles: Path = ROLES) -> dict[str, dict[str, dict[str, Any]]]:
    """What each role says of the variables that it takes, in its `meta/argument_specs.yml`."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for spec in sorted(roles.glob("*/meta/argument_specs.yml")):
        taken = found.setdefault(spec.parts[-3], {})
        for entry in yaml_load(spec.read_text(encoding="utf-8"))["argument_specs"].values():
            taken.update(entry.get("options", {}))
    return found


def unknown_variables(names: list[str], inputs: Mapping[str, Collection[str]]) -> list[tuple[str, str, str | None]]:
    """Name, role and nearest known variable of each name that is meant for a role, and is not its input."""
    found = []
    for name in names:
        role = next((role for role in inputs if name.startswith(f"{role}_")), None)
        if role and not any(name in known for known in inputs.values()):
            near = difflib.get_close_matches(name, inputs[role], n=1, cutoff=0.6 if role in OURS else NEAR)
            if near or role in OURS:
                found.append((name, role, near[0] if near else None))
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


def is_form(value: Any, form: str) -> bool:
    """Whether a value is what a role wants; a text of digits is a number, which is how `-e` gives one."""
    match form:
        case "list":
            return isinstance(value, list | tuple)
        case "dict":
            return isinstance(value, Mapping)
        case "bool":
            return str(value).lower() in BOOLEANS
        case "int":
            return not isinstance(value, bool) and re.fullmatch(r"[+-]?[0-9]+", str(value)) is not None
        case "float":
            return not isinstance(value, bool) and re.fullmatch(r"[+-]?[0-9]+([.][0-9]+)?", str(value)) is not None
    return not isinstance(value, Mapping | list | tuple)


def shown(value: Any, *, hidden: bool) -> str:
    """A value for a sentence: as it is, where it is one and no secret."""
    if isinstance(value, Mapping | list | tuple):
        return "a mapping" if isinstance(value, Mapping) else "a list"
    return f"a {type(value).__name__}" if hidden else repr(value)


def mistaken_form(value: Any, option: Mapping[str, Any]) -> str | None:
    """What a value is and what it should be, in words; None for one that is right, or that a template or a vault will give.

    Ansible makes a list of a text where a module takes one, and not where a template does: a name became its letters there.
    """
    form = option.get("type", "str")
    if isinstance(value, str) and ("{{" in value or "{%" in value):
        return None
    if form not in FORMS or not isinstance(value, str | int | float | Mapping | list | tuple | None):
        return None
    if value is None:
        return f"nothing; expected {FORMS[form]}"
    choices = option.get("choices")
    if not is_form(value, form) or (choices and value not in choices):
        expected = " or ".join(map(str, choices)) if choices else FORMS[form]
        return f"{shown(value, hidden=bool(option.get('no_log')))}; expected {expected}"
    if form == "list" and isinstance(value, list | tuple):
        one = {"type": option.get("elements", "raw"), "no_log": option.get("no_log")}
        return next((f"a list with {found}" for part in value if (found := mistaken_form(part, one))), None)
    return None


def place(value: Any) -> str:
    """Where Ansible read a value (`path:line: `), or nothing where it does not say."""
    try:
        from ansible._internal._datatag._tags import Origin  # noqa: PLC0415 -- internal, so it may go away
    except ImportError:
        return ""
    origin = Origin.get_tag(value)
    return f"{origin.path}:{origin.line_num}: " if origin and origin.path else ""


def mistaken_variables(variables: Mapping[str, Any]) -> list[str]:
    """A sentence for each of a host's variables, as they are written, that no role takes as it is."""
    taken = role_options()
    sentences = [
        f"{place(variables[old])}{old}: got a variable that has another name now; expected {new}."
        for old, new in RENAMED.items()
        if old in variables
    ]
    sentences += [
        f"{place(variables[name])}{name}: got a variable that the role {role} does not have; "
        f"expected one of roles/{role}/README.md." + (f" Did you mean {near}?" if near else "")
        for name, role, near in unknown_variables(sorted(set(variables) - set(RENAMED) - FACTS), taken)
    ]
    for name, option in sorted(part for options in taken.values() for part in options.items()):
        if name not in variables:
            continue
        value = variables[name]
        if changed := changed_by_yaml(value, "str" in (option.get("type"), option.get("elements"))):
            sentences.append(f"{place(value)}{name}: got {changed}; expected a string. Put the value in quotes.")
        elif wrong := mistaken_form(value, option):
            sentences.append(f"{place(value)}{name}: got {wrong}.")
    return sentences
