"""Makes the package under test and its test helpers importable, whether or not the package is installed."""

import sys
from pathlib import Path

_APP = Path(__file__).resolve().parents[1]
for folder in (_APP / "src", _APP / "tests"):
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
