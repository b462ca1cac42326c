"""Check the certificates of a site on the controller, or install them on a host with eyewall-certificates (roles/certificates)."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.eyewall.tornado.plugins.plugin_utils.certificates import (
    CertificateError,
    Pair,
    SiteAuthority,
    files_of,
    fingerprint,
    mistaken_acme,
    mistaken_files,
    now,
    stale,
)

PROGRAM = "/usr/local/sbin/eyewall-certificates"
display = Display()


class ActionModule(ActionBase):  # type: ignore[misc]
    """`wanted`, `source`, `ca`, `files`, `account_key`, `directory` and `acme_ca` are the role's inputs.

    With `check_only`, nothing is installed.
    """

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self._task.args
        source, wanted, at = given["source"], given["wanted"], now()
        pairs: list[Pair] = []
        if source == "files":
            wrong, soon, pairs = mistaken_files(given["files"], wanted, at)
            for sentence in soon if given.get("check_only") else []:
                display.warning(sentence)
        elif source == "acme":
            wrong = list(mistaken_acme(wanted, given["account_key"], given["directory"], given["acme_ca"]))
        else:
            wrong = [
                f"site_apps.{one['name']}.server_names: got no name that a certificate can have; expected one or more."
                for one in wanted
                if not one["names"]
            ]
        try:
            authority = None if source == "files" else SiteAuthority.load(Path(given["ca"]))
        except CertificateError as error:
            wrong.append(f"{error}.")
        if wrong:
            return {**result, "failed": True, "msg": " ".join(dict.fromkeys(wrong))}
        if given.get("check_only"):
            return {**result, "changed": False}
        installed = self.installed()
        if source == "files":
            files = files_of(source, wanted, given["files"])
            new = {one["name"]: (pair, "files") for one, pair in zip(files, pairs, strict=True)}
        else:
            if authority is None and not self._task.check_mode:
                authority = SiteAuthority.make(Path(given["ca"]), f"Eyewall CA of {Path(given['ca']).parent.name}")
            new = {}
            for one in wanted:
                there = installed.get(one["name"], {})
                # what another CA has issued is served until that one has answered again
                if source == "acme" and "not_after" in there and there["not_after"] > at.timestamp():
                    continue
                if authority is None or stale(there, one["names"], authority, at):
                    pair = authority.issue(one["names"]) if authority else None
                    new[one["name"]] = (pair, f"self_signed {fingerprint(authority.certificate)}" if authority else "")
        changed = [name for name, (pair, kind) in new.items() if self.install(name, pair, kind)]
        return {**result, "changed": bool(changed), "installed": changed}

    def installed(self) -> dict[str, Mapping[str, Any]]:
        """What the host has by now, by name; nothing where the program is not there yet."""
        asked = self._low_level_execute_command(f"[ ! -e {PROGRAM} ] || {PROGRAM} status")
        if asked["rc"] or not asked["stdout"].strip():
            return {}
        return {one["name"]: one for one in json.loads(asked["stdout"].strip().splitlines()[-1])}

    def install(self, name: str, pair: Pair | None, source: str) -> bool:
        """Install one of them, over stdin; whether it is another one than before."""
        if self._task.check_mode or pair is None:
            return True
        words = shlex.join([PROGRAM, "install", name, "--source", source])
        done = self._low_level_execute_command(words, in_data=pair.pem().encode())
        if done["rc"]:
            raise AnsibleActionFail((done["stderr"] or done["stdout"]).strip())
        return "changed" in done["stdout"]
