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
from ansible.utils.vars import load_extra_vars
from ansible_collections.eyewall.tornado.plugins.plugin_utils.known_variables import (
    mistaken_variables,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.payloads import pack_beside
from ansible_collections.eyewall.tornado.plugins.plugin_utils.site_apps import (
    chosen,
    mistaken_apps,
    mistaken_choice,
    mistaken_removal,
    of_one_application,
)
from ansible_collections.eyewall.tornado.plugins.plugin_utils.site_tls import mistaken_tls

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


def mistaken_inputs(
    variables: Mapping[str, Any], extra: Mapping[str, Any], *, changes: bool, one_app: bool, removes: bool
) -> list[str]:
    """What is wrong with the variables of the run's hosts, each sentence once: most are said of a group.

    `extra` is what the command line gives (`-e`), `one_app` whether the run is for one application alone, `removes` whether it
    removes one.
    """
    groups = variables["groups"]
    found: list[str] = []
    for host in variables["ansible_play_hosts_all"]:
        if host in groups.get("app", []) or host in groups.get("balancers", []):
            # as they are written: no template is rendered here, and no vault's secret shown
            written = variables["hostvars"].raw_get(host)
            apps = written.get("site_apps")
            # an application that was selected in this run is not the inventory's (playbooks/tasks/select_app.yml)
            given = (
                {} if "tornado_app_hosts" in written else {name: written[name] for name in written if name not in extra}
            )
            of_one = list(of_one_application(given))
            wrong = mistaken_apps(apps, groups)
            # an inventory of before has the one, and so not yet the other
            found += of_one if of_one and apps is None else [*of_one, *wrong]
            if isinstance(apps, Mapping) and not wrong:
                if removes:
                    found += mistaken_removal(apps, extra, groups)
                    continue
                found += mistaken_choice(apps, extra)
                if one_app and len(chosen(apps, extra.get("app"))) > 1:
                    found.append(f"app: got nothing; expected -e app=… with one of {', '.join(apps)}.")
            # a typo is no reason to show nothing
            found += [*mistaken_variables(written), *mistaken_tls(written)] if changes else []
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
            extra = load_extra_vars(self._loader)
            flags = {name: self._task.args[name] for name in ("changes", "one_app", "removes")}
            found = mistaken_inputs(variables, extra, **flags)
        if found:
            result.update(failed=True, msg=" ".join(found))
        else:
            pack_beside(self._task.args["next_modules"])
        return result
