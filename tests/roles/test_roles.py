"""What every role keeps to: defaults and argument_specs agree, headers, names, nothing hidden."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from support import REPOSITORY
from support.product import ROLE_NAMES, ROLES, load_yaml, options_of

SKIPPED = {
    ".git",
    ".venv",
    ".build",
    ".local",
    ".ansible",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "node_modules",
}
TYPES = {"str": str, "path": str, "int": int, "bool": bool, "list": list, "dict": dict, "float": float}
# Words of a task that are no module.
KEYWORDS = {
    "action",
    "any_errors_fatal",
    "args",
    "async",
    "become",
    "become_user",
    "block",
    "changed_when",
    "check_mode",
    "connection",
    "delay",
    "delegate_facts",
    "delegate_to",
    "diff",
    "environment",
    "failed_when",
    "ignore_errors",
    "ignore_unreachable",
    "listen",
    "loop",
    "loop_control",
    "module_defaults",
    "name",
    "no_log",
    "notify",
    "poll",
    "register",
    "rescue",
    "always",
    "retries",
    "run_once",
    "tags",
    "throttle",
    "timeout",
    "until",
    "vars",
    "when",
}
OWN_MODULES = {
    f"eyewall.tornado.{path.stem}"
    for kind in ("modules", "action")
    for path in (REPOSITORY / "plugins" / kind).glob("*.py")
}


def repository_files(*endings: str) -> list[Path]:
    """Return the repository's own files, without looking into what tools made."""
    found = []
    for folder, folders, files in os.walk(REPOSITORY):
        folders[:] = [name for name in folders if name not in SKIPPED]
        found += [Path(folder, name) for name in files if name.endswith(endings)]
    return sorted(found)


TASK_FILES = sorted([*ROLES.glob("*/tasks/*.yml"), *ROLES.glob("*/handlers/*.yml")])
TEMPLATES = sorted(ROLES.glob("*/templates/**/*.j2"))


def relative(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def tasks_in(content: Any) -> Iterator[dict[str, Any]]:
    """Every task of a file of tasks, also those in blocks."""
    for task in content or []:
        yield task
        for part in ("block", "rescue", "always"):
            yield from tasks_in(task.get(part))


def tasks_with_comments(text: str) -> list[str]:
    """Return the text of each task, with the comment right above it."""
    tasks, comment = [""], ""
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("#"):
            comment += line
        elif line.lstrip().startswith("- name: "):
            tasks.append(comment + line)
            comment = ""
        else:
            tasks[-1] += comment + line
            comment = ""
    return tasks


def test_there_is_something_to_check() -> None:
    assert {"nginx", "open_files", "supervisord", "tornado_app"} <= set(ROLE_NAMES)
    assert len(TASK_FILES) > 10
    assert len(TEMPLATES) > 5


# ---- Variables ----


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_defaults_are_what_argument_specs_say(role: str) -> None:
    defaults = load_yaml(ROLES / role / "defaults" / "main.yml") or {}
    options = options_of(role)
    assert defaults == {name: option["default"] for name, option in options.items() if "default" in option}


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_a_variable_without_default_is_required_and_in_the_defaults_as_a_comment(role: str) -> None:
    text = (ROLES / role / "defaults" / "main.yml").read_text()
    for name, option in options_of(role).items():
        commented = bool(re.search(rf"^# {name}: \S", text, re.MULTILINE))
        assert commented == ("default" not in option) == bool(option.get("required")), name


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_every_default_is_documented_in_place(role: str) -> None:
    """A comment stands above each variable, or above the run of lines that it is in."""
    above = ""
    for line in (ROLES / role / "defaults" / "main.yml").read_text().splitlines():
        if re.match(r"[a-z_]+:", line):
            assert above.startswith("#") or re.match(r"[a-z_]+:|[ -]", above), f"{role}: {line}"
        if line.strip() != "---":
            above = line


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_variables_are_named_after_the_role_and_described(role: str) -> None:
    for name, option in options_of(role).items():
        assert name.startswith(f"{role}_")
        assert option["type"] in TYPES, name
        description = option["description"]
        assert isinstance(description, list), name
        for sentence in description:
            assert isinstance(sentence, str), f"{name}: a colon made a mapping of '{sentence}'"
            assert sentence.endswith("."), name
        default = option.get("default")
        if default is not None and "{{" not in str(default):
            assert isinstance(default, TYPES[option["type"]]), name
        if option["type"] == "list":
            assert "elements" in option, name


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_entry_points_share_their_options(role: str) -> None:
    entry_points = load_yaml(ROLES / role / "meta" / "argument_specs.yml")["argument_specs"]
    assert all((ROLES / role / "tasks" / f"{name}.yml").is_file() for name in entry_points)
    assert all(entry["short_description"] for entry in entry_points.values())
    first, *others = (entry["options"] for entry in entry_points.values())
    assert all(options == first for options in others)


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_a_role_uses_its_own_variables_and_no_other_roles(role: str) -> None:
    others = {name for other in ROLE_NAMES if other != role for name in options_of(other)}
    for path in [*(ROLES / role).glob("*/**/*.yml"), *(ROLES / role).glob("templates/**/*.j2")]:
        words = set(re.findall(r"\w+", re.sub(r"(?m)(^|\s)#.*$", "", path.read_text())))
        assert not words & others, relative(path)
        internal = {word for word in words if re.match(rf"__(?!{role}_)({'|'.join(ROLE_NAMES)})_", word)}
        assert not internal, relative(path)


@pytest.mark.parametrize("role", ROLE_NAMES)
def test_readme_leads_to_the_variables(role: str) -> None:
    readme = ROLES / role / "README.md"
    assert readme.is_file(), f"{relative(readme)} is not written"
    assert re.search(r"\]\(\.\./\.\./docs/variables\.md(#[\w-]+)?\)", readme.read_text()), (
        "no link to docs/variables.md"
    )


# ---- Files ----


@pytest.mark.parametrize("path", TEMPLATES, ids=relative)
def test_every_template_starts_with_the_managed_header(path: Path) -> None:
    first, *others = path.read_text().splitlines()
    if first.startswith("#!"):
        first = others[0]
    assert re.fullmatch(r"\{\{ ansible_managed \| comment(\(.+\))? \}\}", first)


@pytest.mark.parametrize("path", TEMPLATES, ids=relative)
def test_every_template_compiles(path: Path) -> None:
    Templar(loader=DataLoader()).environment.parse(path.read_text(), filename=str(path))


def test_every_yaml_file_parses() -> None:
    broken = []
    files = repository_files(".yml", ".yaml")
    for path in files:
        try:
            list(yaml.load_all(path.read_text(), Loader=_AnyTag))
        except yaml.YAMLError as error:
            broken.append(f"{relative(path)}: {error}")
    assert broken == []
    assert len(files) > 30


class _AnyTag(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """Takes tags (Ansible's `!vault`, mkdocs' `!!python/…`) for text, and refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"twice: {twice}", node.start_mark)
        return super().construct_mapping(node, deep)


_AnyTag.add_multi_constructor("!", lambda loader, _tag, node: loader.construct_scalar(node))  # type: ignore[no-untyped-call]
# of mkdocs.yml, which `make docs` loads
_AnyTag.add_multi_constructor("tag:yaml.org,2002:python/", lambda _loader, tag, _node: tag)  # type: ignore[no-untyped-call]


# ---- Tasks ----


@pytest.mark.parametrize("path", TASK_FILES, ids=relative)
def test_tasks_are_named_and_use_whole_module_names(path: Path) -> None:
    for task in tasks_in(load_yaml(path)):
        assert task.get("name"), f"a task without a name: {task}"
        if "block" in task:
            continue
        (module,) = [word for word in task if word not in KEYWORDS and not word.startswith("with_")]
        assert module.count(".") == 2 or module in OWN_MODULES, f"{task['name']}: {module}"


@pytest.mark.parametrize("path", TASK_FILES, ids=relative)
def test_names_of_imported_files_stand_before_their_tasks(path: Path) -> None:
    if path.parent.name == "handlers" or path.stem == "main":
        return
    for task in tasks_in(load_yaml(path)):
        assert task["name"].startswith(f"{path.stem} | "), task["name"]


@pytest.mark.parametrize("path", TASK_FILES + sorted((REPOSITORY / "playbooks").glob("*.yml")), ids=relative)
def test_nothing_is_hidden_without_a_reason(path: Path) -> None:
    text = path.read_text()
    assert "ignore_errors" not in text
    assert not re.search(r"\|\| (true|:)(\s|$)", text)
    for task in tasks_with_comments(text):
        if re.search(r"(?m)^\s*(failed_when: false|changed_when: false|ignore_unreachable: true)\b", task):
            assert re.search(r"(?m)(^|\s)# \w", task), f"nothing says why:\n{task}"


@pytest.mark.parametrize("path", TASK_FILES, ids=relative)
def test_files_have_owner_and_a_quoted_mode(path: Path) -> None:
    for task in tasks_in(load_yaml(path)):
        for module in ("ansible.builtin.template", "ansible.builtin.copy"):
            if module in task:
                assert isinstance(task[module].get("mode"), str), task["name"]
                if path.parts[-3] != "local_containers":  # which writes on the controller, as whoever calls it
                    assert {"owner", "group"} <= set(task[module]), task["name"]
