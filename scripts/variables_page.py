"""Make the page of variables from every role's argument_specs.

`python scripts/variables_page.py > docs/variables.md`
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[1] / "roles"
HEAD = """\
# Variables

Every variable of every role, from `roles/*/meta/argument_specs.yml`. This page is generated:
`python scripts/variables_page.py > docs/variables.md`.

Set them in an inventory, in `inventory/production/group_vars/app/<role>.yml` for example. Some follow from
others on every site: [playbooks/group_vars/all/wiring.yml](../playbooks/group_vars/all/wiring.yml) says which. A variable that
begins with a role's name and is not on this page is refused as a typo.
"""


def code(text: str) -> str:
    """Return a value as code in Markdown, in a table's cell too."""
    return f"`{text.replace('|', chr(92) + '|')}`"


def as_markdown(description: str | list[str]) -> str:
    """Return a description in Ansible's markup as Markdown."""
    text = " ".join([description] if isinstance(description, str) else description)
    pieces = re.split(r"\b[CIBVO]\(([^()]*(?:\([^()]*\)[^()]*)*)\)", text)
    for index, piece in enumerate(pieces):
        # every second one is what stood in C(), and code as it is
        pieces[index] = code(piece) if index % 2 else re.sub(r"([|*_<>])", r"\\\1", piece)
    return "".join(pieces)


def type_of(option: dict[str, Any]) -> str:
    name = f"list of {option['elements']}" if option["type"] == "list" else str(option["type"])
    choices = ": " + ", ".join(code(str(choice)) for choice in option["choices"]) if "choices" in option else ""
    return name + choices


def default_of(option: dict[str, Any]) -> str:
    if "default" not in option:
        return "**required**"
    value = option["default"]
    return code(value if isinstance(value, str) and value else json.dumps(value))


def section(role: str, entry_points: dict[str, Any]) -> list[str]:
    """Return a role's section: what it is for, and its variables, those of all entry points."""
    options = {name: option for entry in entry_points.values() for name, option in entry["options"].items()}
    lines = [f"## {role}", "", f"{next(iter(entry_points.values()))['short_description']}."]
    lines += [f"See [roles/{role}](../roles/{role}/README.md).", ""]
    lines += ["| variable | type | default | what it is |", "|---|---|---|---|"]
    for name, option in options.items():
        cells = (code(name), type_of(option), default_of(option), as_markdown(option["description"]))
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def page(roles: Path = ROLES) -> str:
    lines = [HEAD]
    for specs in sorted(roles.glob("*/meta/argument_specs.yml")):
        content = yaml.safe_load(specs.read_text(encoding="utf-8"))
        lines += section(specs.parts[-3], content["argument_specs"])
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
