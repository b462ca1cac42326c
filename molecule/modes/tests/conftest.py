"""The host of this scenario."""

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), *(str(HERE.parents[2] / place) for place in ("tests", "runner/tests"))]

from fleet_support import Fleet  # noqa: E402 -- its place was just put on the path


@pytest.fixture(scope="session")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet("modes", tmp_path_factory.mktemp("releases"))
