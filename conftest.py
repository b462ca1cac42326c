"""Keeps what pytest makes of the tests' asserts: to make it takes as long as to run half of the quick tests."""

import sys
from pathlib import Path

# of this process alone: what a test starts has PYTHONDONTWRITEBYTECODE in its environment, as ever
sys.dont_write_bytecode = False
sys.pycache_prefix = str(Path(__file__).parent / ".build" / "pycache")
