"""The host of this scenario."""

import pytest
from support.fleet import Fleet


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet("modes", tmp_path_factory.mktemp("releases"))
