"""Make the secrets of the local fleet, once: `python scripts/local_secrets.py .local/secrets.json`."""

import json
import os
import secrets
import sys
from pathlib import Path

from argon2 import PasswordHasher


def main(path: Path) -> None:
    """Write a cookie secret, a password and its hash to `path`, readable by this user alone; keep what is there."""
    if path.exists():
        return
    password = secrets.token_urlsafe(12)
    content = {
        "cookie_secret": secrets.token_hex(32),
        "password": password,
        "password_hash": PasswordHasher().hash(password),
    }
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=2)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
