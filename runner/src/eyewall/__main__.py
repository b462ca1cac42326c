"""``python -m eyewall``."""

import sys

from eyewall.cli import main

if __name__ == "__main__":
    sys.exit(main())
