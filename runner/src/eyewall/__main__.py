"""``python -m eyewall``."""

import sys

from eyewall.cli import main
from eyewall.debug import stay, under_autoreload

if __name__ == "__main__":
    status = main()
    if under_autoreload():
        stay(status)
    sys.exit(status)
