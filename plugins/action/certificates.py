"""Check the certificates of a site on the controller, or install them on a host with eyewall-certificates."""

import json
import shlex
from collections.abc import Iterator, Mapping
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
        pairs, wrong, soon = self.mistakes()
        authority = None
        try:
            authority = None if given["source"] == "files" else SiteAuthority.load(Path(given["ca"]))
        except CertificateError as error:
            wrong.append(f"{error}.")
        if wrong:
            return {**result, "failed": True, "msg": " ".join(dict.fromkeys(wrong))}
        if given.get("check_only"):
            for sentence in soon:
                display.warning(sentence)
            return {**result, "changed": False}
        changed = [name for name, (pair, kind) in self.new(pairs, authority) if self.install(name, pair, kind)]
        return {**result, "changed": bool(changed), "installed": changed}

    def mistakes(self) -> tuple[list[Pair], list[str], list[str]]:
        """The certificates that the site has itself, what is wrong with what it says, and what will be soon."""
        given = self._task.args
        source, wanted = given["source"], given["wanted"]
        if source == "files":
            wrong, soon, pairs = mistaken_files(given["files"], wanted, now())
            return pairs, wrong, soon
        if source == "acme":
            return [], list(mistaken_acme(wanted, given["account_key"], given["directory"], given["acme_ca"])), []
        expected = "got no name that a certificate can have; expected one or more"
        return [], [f"site_apps.{one['name']}.server_names: {expected}." for one in wanted if not one["names"]], []

    def new(self, pairs: list[Pair], authority: SiteAuthority | None) -> Iterator[tuple[str, tuple[Pair | None, str]]]:
        """By name, what is to be installed, and where it is from; None for what is not made in check mode."""
        given, at = self._task.args, now()
        source, wanted, ca = given["source"], given["wanted"], Path(given["ca"])
        if source == "files":
            for one, pair in zip(files_of(source, wanted, given["files"]), pairs, strict=True):
                yield one["name"], (pair, "files")
            return
        installed = self.installed()
        if authority is None and not self._task.check_mode:
            authority = SiteAuthority.make(ca, f"Eyewall CA of {ca.parent.name}")
        for one in wanted:
            there = installed.get(one["name"], {})
            # what another CA has issued is served until that one has answered again
            if source == "acme" and there.get("not_after", 0) > at.timestamp():
                continue
            if authority is None:
                yield one["name"], (None, "")
            elif stale(there, one["names"], authority, at):
                yield one["name"], (authority.issue(one["names"]), f"self_signed {fingerprint(authority.certificate)}")

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
