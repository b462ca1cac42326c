"""``python -m eyewall``."""

import sys

from eyewall.environment import enter

if __name__ == "__main__":
    enter()
    # not before: what they import is a quarter of a second, and would be imported twice
    from eyewall.cli import main
    from eyewall.debug import stay, under_autoreload

    status = main()
    if under_autoreload():
        stay(status)
    sys.exit(status)
