"""The site's applications, from the variable `site_apps`."""

from collections.abc import Mapping
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase
from ansible.template import trust_as_template
from ansible.utils.vars import load_extra_vars
from ansible_collections.eyewall.tornado.plugins.plugin_utils.site_apps import (
    chosen,
    defaults,
    hosts_of,
    variables_of_keys,
)

DOCUMENTATION = r"""
name: apps
author: The Eyewall authors
short_description: The site's applications
description:
  - Without a term, the names of the applications that this run is for and that are on this host; with O(here), of all there.
  - With terms, every application of the site that is for C(hosts), as a mapping with its C(name), its C(hosts) and these keys.
  - With O(inputs), the variables of the roles that one application stands for, rendered as if they were this host's own.
options:
  _terms:
    description: Keys of an application, as in C(server_names).
  inputs:
    type: str
    description: Name of an application.
  here:
    type: bool
    default: false
    description: Whether only those of this host are wanted.
"""
RETURN = r"""
_raw:
  description: Names, or mappings.
  type: list
"""


LOOPBACK = ("localhost", "127.0.0.1", "[::1]")


def trusted(value: Any) -> Any:
    """A value of our own defaults, whose templates Ansible renders."""
    return trust_as_template(value) if isinstance(value, str) else value


class LookupModule(LookupBase):  # type: ignore[misc]
    def run(self, terms: list[str], variables: Mapping[str, Any] | None = None, **options: Any) -> list[Any]:
        self.set_options(var_options=variables, direct=options)
        self.known: dict[str, Any] = dict(variables or {})
        apps = self.declared()
        if one := self.get_option("inputs"):
            return [self.inputs(apps, one)]
        here = self.known["inventory_hostname"]
        groups = self.known["groups"]
        if not terms:
            names = list(apps) if self.get_option("here") else chosen(apps, self.known.get("app"))
            return [name for name in names if here in hosts_of(apps[name], groups)]
        found = [
            {"name": name, "hosts": hosts_of(declared, groups), **self.rendered(apps, name, terms)}
            for name, declared in apps.items()
        ]
        return [one for one in found if here in one["hosts"]] if self.get_option("here") else found

    def declared(self) -> Mapping[str, Mapping[str, Any]]:
        """The applications, each as it is written: its own variables are rendered later."""
        apps = self.known.get("site_apps")
        apps = self._templar.template(apps) if isinstance(apps, str) else apps
        if not isinstance(apps, Mapping) or not apps:
            raise AnsibleLookupError("site_apps: got nothing; expected the applications of the site by their names.")
        return {name: self._templar.template(one) if isinstance(one, str) else one for name, one in apps.items()}

    def rendered(self, apps: Mapping[str, Mapping[str, Any]], name: str, keys: list[str]) -> dict[str, Any]:
        """Some keys of an application, with defaults, each as it would be among the host's variables."""
        variables = variables_of_keys()
        own = {variable: trusted(value) for variable, value in defaults().items()}
        own |= {variables[key]: value for key, value in apps[name].items() if key in variables}
        if name in chosen(apps, self.known.get("app")):
            # extra variables take precedence over everything else, here too
            given = load_extra_vars(self._loader)
            own |= {variable: given[variable] for variable in variables.values() if variable in given}
        own["tornado_app_name"] = name
        templar = self._templar.copy_with_new_env(available_variables={**self.known, **own})
        return {key: templar.template(own[variables[key]]) for key in keys}

    def inputs(self, apps: Mapping[str, Mapping[str, Any]], name: str) -> dict[str, Any]:
        """Every variable that an application stands for."""
        variables = variables_of_keys()
        keys = [key for key, variable in variables.items() if variable in defaults() or key in apps[name]]
        found = {variables[key]: value for key, value in self.rendered(apps, name, keys).items()}
        groups, here = self.known["groups"], self.known["inventory_hostname"]
        hosts = hosts_of(apps[name], groups)
        of_this_host = [app for app, declared in apps.items() if here in hosts_of(declared, groups)]
        taken = {one.lower() for app in apps for one in self.rendered(apps, app, ["server_names"])["server_names"]}
        return {
            **found,
            "tornado_app_name": name,
            "tornado_app_declared_in": f"site_apps.{name}",
            "tornado_app_hosts": [host for host in self.known["ansible_play_hosts_all"] if host in hosts],
            "nginx_app_name": name,
            # the first application of a host is the one that is asked without a name
            "nginx_loopback_names": [one for one in LOOPBACK if one not in taken] if of_this_host[:1] == [name] else [],
        }
