"""What a request costs in instructions and a connection in memory, which a busy machine does not change."""

import subprocess
import sys

import pytest
from support import REPOSITORY


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "counted", "least"),
    [("instructions", " k of ", 4), ("memory", " bytes of ", 2)],
    ids=["a request in instructions", "a connection in memory"],
)
def test_nothing_costs_more_than_its_limit(program: str, counted: str, least: int) -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / f"{program}.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(counted) >= least, done.stdout
