"""What several test files need, here and below runner/, app/ and molecule/: pytest's `pythonpath` (pyproject.toml) finds it."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
