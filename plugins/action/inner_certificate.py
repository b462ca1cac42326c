"""Give a host the certificate that the site's other hosts know it by, from the site's own CA on the controller."""

import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.eyewall.tornado.plugins.plugin_utils.certificates import (
    CertificateError,
    SiteAuthority,
    certificate_pem,
    now,
    stale_inner,
)


class ActionModule(ActionBase):  # type: ignore[misc]
    """`name` is the host's, `path` gets its certificate with the key, `ca_path` the CA, which is in `ca` on the controller."""

    TRANSFERS_FILES = False

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars)
        given = self._task.args
        directory = Path(given["ca"])
        try:
            authority = SiteAuthority.load(directory)
        except CertificateError as error:
            return {**result, "failed": True, "msg": f"{error}."}
        if authority is None:
            if self._task.check_mode:
                return {**result, "changed": True}
            authority = SiteAuthority.make(directory, f"Eyewall CA of {directory.parent.name}")
        ca = certificate_pem(authority.certificate)
        path, ca_path = shlex.quote(given["path"]), shlex.quote(given["ca_path"])
        there = self._low_level_execute_command(f"openssl x509 -in {path} && [ -s {ca_path} ] && cat {ca_path}")
        own, _, other = there["stdout"].replace("\r", "").partition("-----END CERTIFICATE-----")
        if other.strip() == ca.strip() and not stale_inner(
            f"{own}-----END CERTIFICATE-----\n", given["name"], authority, now()
        ):
            return {**result, "changed": False}
        if not self._task.check_mode:
            # the key first: what has the new CA and the old certificate would be believed by nobody
            self.write(given["path"], authority.issue([given["name"]], client=True).pem(), "077")
            self.write(given["ca_path"], ca, "022")
        return {**result, "changed": True}

    def write(self, path: str, text: str, umask: str) -> None:
        """Replace a file of the host in one step, by what comes over stdin."""
        name = shlex.quote(path)
        # the directory is everybody's to enter: others' files are in it, too
        parent = shlex.quote(str(Path(path).parent))
        command = f"mkdir -p -m 0755 {parent} && umask {umask} && cat >{name}.new && mv {name}.new {name}"
        done = self._low_level_execute_command(command, in_data=text.encode())
        if done["rc"]:
            raise AnsibleActionFail((done["stderr"] or done["stdout"]).strip())
