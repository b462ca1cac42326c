"""The host of this scenario, which is no container: it is asked over SSH."""

import pytest
import testinfra
import yaml
from support import REPOSITORY
from support.fleet import Fleet

KEY = REPOSITORY / ".local" / "ssh" / "id_ed25519"
OPTIONS = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"


class Machine(Fleet):
    """A fleet of virtual machines."""

    patience = 3600  # its CPU is emulated

    def host(self, host: str) -> testinfra.host.Host:
        content = yaml.safe_load(self.inventory.read_text(encoding="utf-8"))
        port = content["testapp"]["hosts"][host]["ansible_port"]
        place = f"ssh://deploy@127.0.0.1:{port}?sudo=True&timeout=120&controlpersist=300"
        return testinfra.get_host(place, ssh_identity_file=str(KEY), ssh_extra_args=OPTIONS)


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Machine("machine", tmp_path_factory.mktemp("releases"))
