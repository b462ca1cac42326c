"""Refuse a run that would do nothing, or a part of what it is for, and one whose inventory has a variable that no role takes."""

import difflib
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ansible import constants, context
from ansible.plugins.action import ActionBase
from ansible.release import __version__ as core
from ansible_collections.eyewall.tornado.plugins.plugin_utils.known_variables import (
    missing_variables,
    mistaken_variables,
)

REPOSITORY = Path(__file__).resolve().parents[2]
OLDEST = (2, 19)


def mistaken_version(version: str) -> str | None:
    if tuple(int(part) for part in version.split(".")[:2]) >= OLDEST:
        return None
    return f"ansible-core: got {version}; expected {'.'.join(map(str, OLDEST))} or later, as `make tools` puts it into .venv."


def mistaken_python(modules: tuple[str, ...] = ("brotli", "packaging")) -> str | None:
    """What the Python of Ansible lacks to build a release, which the controller does."""
    lacking = [name for name in modules if find_spec(name) is None]
    if not lacking:
        return None
    got = " and no ".join(lacking)
    return f"{sys.executable}: got no {got}; expected what `make tools` puts into .venv (. .venv/bin/activate)."


def mistaken_tags(option: str, tags: list[str]) -> str | None:
    """A task needs what those before it found out, so there is no tag in any role.

    Without any, tags to skip leave out nothing, as those with which molecule runs a playbook (notest), but for two of
    Ansible's own.
    """
    if (
        tags == []
        or (option == "--tags" and "all" in tags)
        or (option == "--skip-tags" and not {"all", "untagged"} & {*tags})
    ):
        return None
    return f"{option}: got {','.join(tags)}; expected none, for a task needs those before it. Parts of the site are playbooks."


def mistaken_groups(groups: Mapping[str, list[str]], sources: list[str], config: str | None) -> str | None:
    """What is wrong with an inventory that has no application host; None for one that has."""
    if groups.get("app"):
        return None
    own = sorted(name for name in groups if name not in ("all", "ungrouped"))
    got = "an empty group app" if "app" in own else f"the groups {', '.join(own)}" if own else "no group"
    if not own and groups.get("all"):
        got = f"hosts without a group ({', '.join(groups['all'])})"
    sentence = f"The inventory {', '.join(sources)}: got {got}; expected a group app with one host or more."
    if "app" not in own and (near := difflib.get_close_matches("app", own, n=1)):
        sentence += f" Did you mean app instead of {near[0]}?"
    if not own and (config is None or Path(config).resolve() != REPOSITORY / "ansible.cfg"):
        sentence += (
            f" Name one with -i: Ansible read {config or 'no ansible.cfg'}, and not that of {REPOSITORY}, which names one. "
            "It reads the one in the directory that it is started in, unless everybody may write there."
        )
    return sentence


def mistaken_inputs(variables: Mapping[str, Any], *, changes: bool) -> list[str]:
    """What is wrong with the variables of the run's hosts, each sentence once: most are said of a group."""
    app, balancers = (variables["groups"].get(group, []) for group in ("app", "balancers"))
    found: list[str] = []
    for host in variables["ansible_play_hosts_all"]:
        if host in app or host in balancers:
            # as they are written: no template is rendered here, and no vault's secret shown
            written = variables["hostvars"].raw_get(host)
            found += missing_variables(written, "tornado_app") if host in app else []
            # a typo is no reason to show nothing
            found += mistaken_variables(written) if changes else []
    return list(dict.fromkeys(found))


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        variables = task_vars or {}
        sentences = [
            mistaken_version(core),
            mistaken_python() if self._task.args["builds"] else None,
            mistaken_tags("--tags", list(variables["ansible_run_tags"])),
            mistaken_tags("--skip-tags", list(variables["ansible_skip_tags"])),
            mistaken_groups(
                variables["groups"],
                list(context.CLIARGS.get("inventory") or constants.DEFAULT_HOST_LIST),
                constants.CONFIG_FILE,
            ),
        ]
        found = [sentence for sentence in sentences if sentence]
        if not found:
            found = mistaken_inputs(variables, changes=self._task.args["changes"])
        if found:
            result.update(failed=True, msg=" ".join(found))
        return result
