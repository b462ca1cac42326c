"""The server on the oldest libraries that the runner's pyproject.toml admits; all other tests have the newest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY
from support.runner import TESTS

# Whatever is beneath Tornado's public interface, and a process as a whole
FILES = (
    "test_private.py",
    "test_head.py",
    "test_connection.py",
    "test_packed.py",
    "test_tornado_suite.py",
    "test_drain.py",
)


@pytest.mark.slow
def test_the_server(tmp_path: Path) -> None:
    lock = REPOSITORY / "requirements" / "oldest.txt"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--require-hashes", "--no-deps"]
    subprocess.run([*install, "--target", str(tmp_path), "--requirement", str(lock)], check=True)
    # asyncio and Tornado's own core are the same code on both, and the newest Tornado's tests are of them too
    pytest_ = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-o", f"cache_dir={tmp_path}/cache"]
    done = subprocess.run(
        [*pytest_, "-k", "not asyncio and not tornado-uvloop and not many", *(str(TESTS / name) for name in FILES)],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:]
    version = (tmp_path / "tornado" / "__init__.py").read_text()
    assert 'version = "6.5"' in version, "not what the newest Tornado's tests had"
