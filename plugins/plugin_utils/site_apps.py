"""The site's applications: what `site_apps` may say of each, and the roles' variables that it stands for.

A key of an application is an input of the role `tornado_app` without its prefix, or one of the role `nginx` for what nginx does
for this application alone. So there is one schema, the roles' argument_specs, which gives types, defaults and documentation.
"""

import difflib
import functools
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.eyewall.tornado.plugins.plugin_utils.known_variables import (
    FORMS,
    ROLES,
    changed_by_yaml,
    mistaken_form,
    place,
    role_options,
)

# What the site says once for every application, or what follows from something else (playbooks/group_vars/all/wiring.yml).
NOT_OF_AN_APPLICATION = {
    "tornado_app_boot_before",
    "tornado_app_build",
    "tornado_app_declared_in",
    "tornado_app_health_host",
    "tornado_app_hosts",
    "tornado_app_max_buffered_body",
    "tornado_app_name",
    "tornado_app_open_files",
    "tornado_app_other_ports",
    "tornado_app_reserved_ports",
    "tornado_app_runner",
}
# What nginx does for one application, by its key.
OF_NGINX = {
    "server_names": "nginx_server_name",
    "max_body_size": "nginx_client_max_body_size",
    "body_sizes": "nginx_body_sizes",
    "denied_paths": "nginx_denied_paths",
    "passed_headers": "nginx_passed_headers",
}
HOSTS = {
    "type": "str",
    "default": "app",
    "description": ["Group of the hosts that it runs on, all of which are in the group C(app)."],
}
NAME = re.compile(r"[a-z][a-z0-9-]{0,23}")
EXAMPLE = "site_apps: {board: {source: …, factory: …}}"


@functools.cache
def variables_of_keys() -> dict[str, str]:
    """The role's variable that each key stands for; `hosts` stands for none."""
    prefix = "tornado_app_"
    own = {
        name.removeprefix(prefix): name for name in role_options()["tornado_app"] if name not in NOT_OF_AN_APPLICATION
    }
    return own | OF_NGINX


@functools.cache
def schema() -> dict[str, dict[str, Any]]:
    """What each key of an application may be, as argument_specs have it."""
    options = {**role_options()["tornado_app"], **role_options()["nginx"]}
    return {"hosts": HOSTS} | {key: options[variable] for key, variable in variables_of_keys().items()}


@functools.cache
def defaults() -> dict[str, Any]:
    """The roles' defaults of these variables, as they are written: templates among them."""
    found: dict[str, Any] = {}
    for role in ("tornado_app", "nginx"):
        found |= yaml_load((ROLES / role / "defaults" / "main.yml").read_text(encoding="utf-8"))
    return {name: value for name, value in found.items() if name in variables_of_keys().values()}


def chosen(apps: Collection[str], app: str | None) -> list[str]:
    """The applications that a run is for: the one that `-e app=` names, or all."""
    return [name for name in apps if app in (None, "", name)]


def hosts_of(declared: Any, groups: Mapping[str, list[str]]) -> list[str]:
    """The hosts of an application; those of the default where a template says what it is."""
    group = declared.get("hosts", HOSTS["default"]) if isinstance(declared, Mapping) else HOSTS["default"]
    return list(groups.get(str(group), []))


def mistaken_key(app: str, key: str, value: Any) -> str | None:
    """What is wrong with one key of an application, in a sentence."""
    name = f"{place(value) or place(key)}site_apps.{app}.{key}"
    if key not in schema():
        near = difflib.get_close_matches(key, schema(), n=1)
        return f"{name}: got a key that no application has; expected one of docs/applications.md." + (
            f" Did you mean {near[0]}?" if near else ""
        )
    option = schema()[key]
    if changed := changed_by_yaml(value, "str" in (option.get("type"), option.get("elements"))):
        return f"{name}: got {changed}; expected a string. Put the value in quotes."
    wrong = mistaken_form(value, option)
    return f"{name}: got {wrong}." if wrong else None


def mistaken_app(app: str, declared: Any, groups: Mapping[str, list[str]]) -> Iterator[str]:
    """What is wrong with one application, a sentence each."""
    where = f"{place(app)}site_apps.{app}"
    if not NAME.fullmatch(str(app)):
        yield f"{where}: got the name '{app}'; expected 1 to 24 lowercase letters, digits or dashes, starting with a letter."
    if isinstance(declared, str) and "{{" in declared:
        return
    if not isinstance(declared, Mapping):
        yield f"{where}: got {'nothing' if declared is None else repr(declared)}; expected {FORMS['dict']}, as in {EXAMPLE}."
        return
    yield from filter(None, (mistaken_key(app, str(key), value) for key, value in declared.items()))
    missing = sorted(key for key, option in schema().items() if option.get("required") and key not in declared)
    for key in missing:
        yield f"{where}.{key}: got nothing; expected {FORMS[schema()[key]['type']]}."
    group, hosts = declared.get("hosts", HOSTS["default"]), hosts_of(declared, groups)
    if not hosts:
        yield f"{where}.hosts: got '{group}'; expected a group of the inventory with one host or more."
    elif outside := [host for host in hosts if host not in groups.get("app", [])]:
        stray = ", ".join(outside)
        yield f"{where}.hosts: got '{group}', in which {stray} is not in the group app; expected hosts of that group."


def shared_names(apps: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with names of the applications beside each other, a sentence each."""
    owners: dict[str, str] = {}
    for app, declared in apps.items():
        names = declared.get("server_names", ["_"]) if isinstance(declared, Mapping) else None
        if not isinstance(names, list | tuple):
            continue
        where = f"{place(names)}site_apps.{app}.server_names"
        if list(names) == ["_"] and len(apps) > 1:
            yield f"{where}: got any name ('_') beside other applications; expected host names for this application."
        for name in map(str, names):
            if name.lower() in owners and name != "_":
                yield (
                    f"{where}: got {name}, which site_apps.{owners[name.lower()]} has; expected another name, "
                    "because applications cannot share one by path."
                )
            owners.setdefault(name.lower(), app)


def mistaken_apps(apps: Any, groups: Mapping[str, list[str]]) -> list[str]:
    """What is wrong with `site_apps`, as it is written, a sentence each."""
    if isinstance(apps, str) and "{{" in apps:
        return []
    if not isinstance(apps, Mapping) or not apps:
        got = "nothing" if not apps else repr(apps)
        return [f"site_apps: got {got}; expected the applications of the site by their names, as in {EXAMPLE}."]
    found = [sentence for app, declared in apps.items() for sentence in mistaken_app(app, declared, groups)]
    return [*found, *shared_names(apps)]


def of_one_application(variables: Mapping[str, Any]) -> Iterator[str]:
    """A sentence for each variable of an inventory that is a key of an application now."""
    keys = {variable: key for key, variable in variables_of_keys().items()}
    names = ({"tornado_app_name"} | keys.keys()) & variables.keys()
    app = variables.get("tornado_app_name", "NAME")
    for name in sorted(names):
        key = f".{keys[name]}" if name in keys else ""
        yield (
            f"{place(variables[name])}{name}: got a variable of a site with one application; expected site_apps.{app}{key}, "
            "in group_vars/all/apps.yml (docs/upgrading.md)."
        )


def mistaken_removal(
    apps: Mapping[str, Any], extra: Mapping[str, Any], groups: Mapping[str, list[str]]
) -> Iterator[str]:
    """What is wrong with the application to be removed, in a sentence: a host at least must have it no more."""
    app = extra.get("app")
    if not app or not NAME.fullmatch(str(app)):
        yield f"app: got {repr(app) if app else 'nothing'}; expected -e app=… with the name of an application to remove."
    elif app in apps and not {*groups.get("app", [])} - {*hosts_of(apps[app], groups)}:
        yield f"app: got '{app}', which site_apps has on every host; expected an application that was taken out of it."


def mistaken_choice(apps: Collection[str], extra: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with what the command line says of applications, a sentence each."""
    app = extra.get("app")
    if "tornado_app_name" in extra:
        yield f"tornado_app_name: got '{extra['tornado_app_name']}'; expected an application's name in site_apps."
    if app and app not in apps:
        near = difflib.get_close_matches(str(app), apps, n=1)
        yield f"app: got '{app}'; expected one of {', '.join(apps)}." + (f" Did you mean {near[0]}?" if near else "")
    taken = sorted({*variables_of_keys().values()} & extra.keys())
    if taken and len(chosen(apps, app)) > 1:
        yield f"{taken[0]}: got a value for {len(apps)} applications; expected -e app=… with it, one of {', '.join(apps)}."
