"""What an inventory says of TLS (`site_tls` and what belongs to it), as it is written: looked at before anything else."""

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ansible.module_utils.common.yaml import yaml_load
from ansible_collections.eyewall.tornado.plugins.plugin_utils.known_variables import (
    changed_by_yaml,
    mistaken_form,
    place,
)

WIRING = Path(__file__).resolve().parents[2] / "playbooks" / "group_vars" / "all" / "wiring.yml"
SOURCES = ["off", "self_signed", "files", "acme"]
OPTIONS: dict[str, dict[str, Any]] = {
    "site_tls": {"type": "str", "choices": SOURCES},
    "site_certificates": {"type": "list", "elements": "dict"},
    "site_acme_directory": {"type": "str"},
    "site_acme_ca": {"type": "str"},
    "site_acme_email": {"type": "str"},
    "site_acme_account_key": {"type": "str", "no_log": True},
    "site_ca": {"type": "str"},
    "site_inner_tls": {"type": "bool"},
    "site_https_redirect": {"type": "bool"},
    "site_hsts": {"type": "int"},
}
# A name that is less similar may be a variable of the site's own.
NEAR = 0.8
# Facts that a run sets, and variables that are checked elsewhere.
OTHERS = {"site_app", "site_apps", "site_failed", "site_infos", "site_plans", "site_removed"}


def wired() -> set[str]:
    """The variables of a site that playbooks/group_vars/all/wiring.yml knows."""
    return {name for name in yaml_load(WIRING.read_text(encoding="utf-8")) if name.startswith("site_")}


def mistaken_tls(variables: Mapping[str, Any]) -> Iterator[str]:
    """What is wrong with a host's variables of TLS, a sentence each."""
    known = wired() | OPTIONS.keys() | OTHERS
    for name in sorted(name for name in variables if name.startswith("site_") and name not in known):
        if near := difflib.get_close_matches(name, known, n=1, cutoff=NEAR):
            yield f"{place(variables[name])}{name}: got a variable that no playbook has; expected {near[0]}, if that is meant."
    for name, option in OPTIONS.items():
        if name not in variables:
            continue
        value = variables[name]
        # YAML 1.1 reads a bare `off` as false
        if name == "site_tls" and value is False:
            continue
        if name == "site_tls" and value not in SOURCES and "{{" not in str(value):
            near = difflib.get_close_matches(str(value), SOURCES, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            yield f"{place(value)}{name}: got {value!r}; expected {', '.join(SOURCES[:-1])} or {SOURCES[-1]}.{hint}"
        elif changed := changed_by_yaml(value, option["type"] == "str"):
            yield f"{place(value)}{name}: got {changed}; expected a string. Put the value in quotes."
        elif wrong := mistaken_form(value, option):
            yield f"{place(value)}{name}: got {wrong}."
    source, hsts = variables.get("site_tls"), variables.get("site_hsts", 0)
    if source == "self_signed" and str(hsts) != "0" and "{{" not in str(hsts):
        yield (
            f"{place(hsts)}site_hsts: got {hsts}; expected 0, because site_tls is self_signed: who was told could not get past a "
            "browser's warning."
        )
    if source == "files" and not variables.get("site_certificates"):
        yield f"{place(source)}site_certificates: got nothing; expected a certificate and its key, because site_tls is files."
    if source == "acme" and not variables.get("site_acme_account_key"):
        yield f"{place(source)}site_acme_account_key: got nothing; expected the account's key, because site_tls is acme."
