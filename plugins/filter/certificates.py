"""What the certificates of a site are asked in templates."""

from typing import Any

from ansible.errors import AnsibleFilterError
from ansible_collections.eyewall.tornado.plugins.plugin_utils.certificates import (
    CertificateError,
    certified_applications,
    files_of,
    thumbprint,
)


def account_thumbprint(account_key: str) -> str:
    """The thumbprint of the key of an ACME account, with which HAProxy answers challenges."""
    try:
        return thumbprint(account_key)
    except CertificateError as error:
        raise AnsibleFilterError(f"site_acme_account_key: {error}.") from None


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {
            "account_thumbprint": account_thumbprint,
            "certificate_files": files_of,
            "certified_applications": certified_applications,
        }
