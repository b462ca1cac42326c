"""Plan a deploy: what one host is to run, as plain data, before anything on it is changed.

Everything after this (lock, release, smoke test, handover, record, nginx's upstreams) takes the plan and asks no template again.
A rollback has a plan of the same form (roles/tornado_app/tasks/rollback.yml), without what only a build gives.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.eyewall.tornado.plugins.plugin_utils.target import target_name


def fingerprint(program: str, settings: Mapping[str, Any], secrets: Mapping[str, Any]) -> str:
    """A hash of everything that makes a process what it is: what differs is another generation, and nothing else is."""
    environment = json.dumps([settings, secrets], sort_keys=True, default=str)
    return hashlib.sha256(f"{program}{environment}".encode()).hexdigest()


def plan(
    *,
    name: str,
    build: Mapping[str, Any],
    host: Mapping[str, Any],
    program: str,
    smoke_program: str,
    placeholder: str,
    settings: Mapping[str, Any],
    secrets: Mapping[str, Any],
) -> dict[str, Any]:
    """What one host is to run.

    `build` and `host` are what the modules `build` and `tornado_app_preflight` returned; `program` and `smoke_program` are
    the texts of supervisord's configuration, with `placeholder` for the generation's name, which is made of them. In the result,
    `current` is the generation that the host runs, `bundle` and `wheelhouse` are files of the controller that it lacks, "" for
    none; no value of `settings` or `secrets` is in it.
    """
    release = build["release"]
    generation = f"{name}-{release}-{fingerprint(program, settings, secrets)[:6]}"
    built = build["targets"][target_name(host["target"])]
    lacks_release = release not in host["releases"]
    lacks_environment = lacks_release and built["environment"] not in host["environments"]
    return {
        "verb": "deploy",
        "generation": generation,
        "release": release,
        "ports": host["ports"],
        "current": host["current"],
        "program": program.replace(placeholder, generation),
        "smoke_program": smoke_program.replace(placeholder, generation),
        "digest": build["digest"],
        "environment": built["environment"],
        "bundle": built["bundle"] if lacks_release else "",
        "wheelhouse": built["wheelhouse"] if lacks_environment else "",
    }


def mistaken_task_files(files: Mapping[str, str]) -> list[str]:
    """A sentence for each variable that names no file of tasks: it would be read when hosts have changed."""
    return [
        f"{name}: got '{file}'; expected the absolute path of a file of tasks on the controller, or ''."
        for name, file in files.items()
        if file and not (Path(file).is_absolute() and Path(file).is_file())
    ]


class ActionModule(ActionBase):  # type: ignore[misc]
    TRANSFERS_FILES = False
    _requires_connection = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        if mistakes := mistaken_task_files(arguments.pop("task_files")):
            result.update(failed=True, msg=" ".join(mistakes))
        else:
            result.update(changed=False, **plan(**arguments))
        return result
