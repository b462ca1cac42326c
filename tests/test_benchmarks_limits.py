"""What a request costs in instructions and a connection in memory, which a busy machine does not change."""

import subprocess
import sys

import pytest
from eyewall_support import REPOSITORY


@pytest.mark.slow
def test_no_request_costs_more_than_its_limit() -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "instructions.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" k of ") >= 4, done.stdout


@pytest.mark.slow
def test_no_connection_costs_more_than_its_limit() -> None:
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "memory.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" bytes of ") == 2, done.stdout
