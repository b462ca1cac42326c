"""What Ansible's programs say of each inventory, asked in the background while other tests run."""

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from support import REPOSITORY

INVENTORIES = sorted(path.name for path in (REPOSITORY / "inventory").iterdir() if path.is_dir())
PLAYBOOKS = [
    "site.yml",
    *(str(path.relative_to(REPOSITORY)) for path in sorted((REPOSITORY / "playbooks").glob("*.yml"))),
]
Runs = dict[tuple[str, str], Future[subprocess.CompletedProcess[str]]]


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@contextmanager
def asked() -> Iterator[Runs]:
    """Give what each program says of each inventory; one at a time, the other CPU is the tests'."""
    pool = ThreadPoolExecutor(1)
    found: Runs = {}
    # the local one is the default
    options = {name: [] if name == "local" else ["-i", f"inventory/{name}"] for name in INVENTORIES}
    for name, inventory in options.items():
        found["graph", name] = pool.submit(run, "ansible-inventory", *inventory, "--graph")
    # last, for the quick tests do not wait for them
    for name, inventory in options.items():
        found["playbooks", name] = pool.submit(run, "ansible-playbook", "--syntax-check", *inventory, *PLAYBOOKS)
    try:
        yield found
    finally:
        pool.shutdown(cancel_futures=True)
