"""What several test files need: the repository's files, its modules, and Ansible's own template engine."""

import functools
import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

from support import REPOSITORY

ROLES = REPOSITORY / "roles"
ROLE_NAMES = sorted(path.name for path in ROLES.iterdir() if (path / "meta").is_dir())

# What several test files share asserts too, and says as much when it fails as they do.
pytest.register_assert_rewrite("support.supervised_host")

# What the command line programs do first: it makes ansible.builtin importable, and ours.
init_plugin_loader([str(REPOSITORY / "collections")])


# What a host of Debian 12 is to the build.
TARGET = {"python": "3.11", "python_full": "3.11.2", "machine": "x86_64", "glibc": "2.36"}


def preflight(ports: list[int]) -> dict[str, Any]:
    """What tornado_app_preflight returns, in what the role uses of it."""
    return {
        "ports": ports,
        "processes": len(ports),
        "current": None,
        "target": TARGET,
        "releases": [],
        "environments": [],
    }


def built(release: str) -> dict[str, Any]:
    """What the module build returns for the target of `preflight`."""
    target = {"environment": "e1", "bundle": "/build/bundle.tar", "wheelhouse": "/build/wheelhouse.tar"}
    return {"release": release, "digest": "d1", "targets": {"py3.11.2-x86_64-glibc2.36": target}}


# What molecule or an inventory gives for the reference application.
BOARD = {
    "tornado_app_name": "board",
    "tornado_app_source": "/src/app",
    "tornado_app_factory": "board:make_app",
    "tornado_app_static": "board/static",
    "tornado_app_settings": {"BOARD_DATA": "/var/lib/board"},
    "tornado_app_secrets": {"BOARD_COOKIE_SECRET": "correct-horse"},
    "__tornado_app_preflight": preflight([8000, 8001]),
    "__tornado_app_build": built("1.0.0+0badcafe"),
    "tornado_app_plan": {"ports": [8000, 8001]},
    "nginx_app_name": "board",
}


def load_yaml(path: Path) -> Any:
    # libyaml's loader: PyYAML's own takes ten times as long
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def options_of(role: str) -> dict[str, dict[str, Any]]:
    """Return the options of a role, from its first entry point."""
    entry_points = load_yaml(ROLES / role / "meta" / "argument_specs.yml")["argument_specs"]
    options: dict[str, dict[str, Any]] = next(iter(entry_points.values()))["options"]
    return options


def load_python(path: Path, name: str) -> ModuleType:
    """Return a Python file as a module, by its path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def plugin(kind: str, name: str) -> ModuleType:
    """One of our plugins (`plugins/KIND/NAME.py`), as Ansible imports it."""
    return importlib.import_module(f"ansible_collections.eyewall.tornado.plugins.{kind}.{name}")


def helper(name: str) -> ModuleType:
    """What modules share, or plugins of the controller: what a test sets in it is so for each of them."""
    own = (REPOSITORY / "plugins" / "plugin_utils" / f"{name}.py").is_file()
    return plugin("plugin_utils" if own else "module_utils", name)


def load_module(name: str) -> ModuleType:
    """One of our Ansible modules."""
    return plugin("modules", name)


def run_module(
    module: ModuleType, capsys: pytest.CaptureFixture[str], *, check: bool = False, **arguments: Any
) -> dict[str, Any]:
    """Run a module's `main` as Ansible does; the result that it prints."""
    with patch_module_args({**arguments, "_ansible_check_mode": check}), pytest.raises(SystemExit) as ended:
        module.main()
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert bool(ended.value.code) == bool(result.get("failed")), result
    return result


@functools.cache
def _written_variables() -> dict[str, Any]:
    """Defaults and vars of every role and the wiring, as trusted as in a playbook."""
    loader = DataLoader()
    found: dict[str, Any] = {}
    sources = [ROLES / role / place / "main.yml" for place in ("defaults", "vars") for role in ROLE_NAMES]
    for source in [*sources, *sorted((REPOSITORY / "playbooks" / "group_vars" / "all").glob("*.yml"))]:
        if source.exists():
            found.update(loader.load_from_file(str(source), trusted_as_template=True) or {})
    return found


def variables(**given: Any) -> dict[str, Any]:
    """Return what a playbook has on a host: the roles', the wiring, Ansible's own, what is given on top."""
    own = {
        "role_path": str(ROLES / "tornado_app"),
        "inventory_dir": str(REPOSITORY / "inventory" / "production"),
        "inventory_hostname": "app1",
        "group_names": ["app"],
        "groups": {"app": ["app1"]},
        "hostvars": {"app1": {"site_server": "192.0.2.1:80"}},
        "ansible_play_hosts_all": ["app1"],
        "site_apps": {"board": {"source": "/src/app", "factory": "board:make_app", "static": "board/static"}},
        "ansible_search_path": [str(ROLES / role) for role in ROLE_NAMES],
    }
    return {**_written_variables(), **own, **given}


def evaluate(expression: str, **given: Any) -> Any:
    """Return the value of a Jinja expression in a playbook's place."""
    templar = Templar(loader=DataLoader(), variables=variables(**given))
    return templar.template(trust_as_template("{{ " + expression + " }}"))


def evaluate_all(expressions: list[str], **given: Any) -> list[Any]:
    """Return the values of Jinja expressions, in a fraction of the time that each by itself would take."""
    found: list[Any] = evaluate("[" + ", ".join(f"({expression})" for expression in expressions) + "]", **given)
    return found


def render(template: str, **given: Any) -> str:
    """Return the text that Ansible writes for `role/path/below/templates.j2`."""
    return _rendered(template, json.dumps(BOARD | given))


@functools.cache
def _rendered(template: str, given: str) -> str:
    role, path = template.split("/", 1)
    full = ROLES / role / "templates" / path
    assert full.is_file(), f"{full} is not there"
    return str(evaluate(f"lookup('ansible.builtin.template', {str(full)!r})", **json.loads(given)))


def nginx_conf(**given: Any) -> str:
    """nginx's whole configuration: nginx.conf, with the one application's part in the place where it is included."""
    application = render("nginx/etc/nginx/eyewall-app.conf.j2", **given)
    include = "    include /etc/nginx/eyewall-app-*.conf;\n"
    whole = render("nginx/etc/nginx/nginx.conf.j2", **given)
    assert include in whole
    return whole.replace(include, application)


def with_error_pages(haproxy_cfg: str, folder: Path, **given: Any) -> str:
    """Write HAProxy's pages of errors into `folder`; return the configuration with their paths there."""
    pages = "__haproxy_error_page | eyewall.tornado.error_pages(__haproxy_error_texts)"
    for page in evaluate(pages, role_path=str(ROLES / "haproxy"), **given):
        (folder / Path(page["path"]).name).write_text(page["content"])
    return haproxy_cfg.replace("/etc/haproxy/errors", str(folder))
