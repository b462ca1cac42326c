"""Make the settings of `make dev` and say the password to sign in with: `python scripts/dev_settings.py .local`."""

import json
import os
import sys
from pathlib import Path


def main(directory: Path) -> None:
    """Write `dev.json`, readable by this user alone, from the `secrets.json` beside it, again each time.

    A relative `directory` stays relative: to where `make dev` runs, which is the repository.
    """
    secrets = json.loads((directory / "secrets.json").read_text())
    settings = {
        "BOARD_COOKIE_SECRET": secrets["cookie_secret"],
        "BOARD_PASSWORD_HASH": secrets["password_hash"],
        "BOARD_DATA": str(directory / "dev-data"),
    }
    descriptor = os.open(directory / "dev.json", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(settings, file, indent=2)
    sys.stdout.write(f"Sign in with the password {secrets['password']}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
