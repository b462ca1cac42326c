"""Make the secrets of the local fleet, each once: `python scripts/local_secrets.py .local/secrets.json`."""

import json
import os
import secrets
import sys
from pathlib import Path

from argon2 import PasswordHasher


def main(path: Path) -> None:
    """Write two keys, a password and its hash to `path`, readable by this user alone; keep what is there."""
    known = json.loads(path.read_text()) if path.exists() else {}
    content = {"cookie_secret": secrets.token_hex(32), "sticky_key": secrets.token_hex(32)} | known
    if "password" not in content:
        content["password"] = secrets.token_urlsafe(12)
        content["password_hash"] = PasswordHasher().hash(content["password"])
    if content == known:
        return
    path.parent.mkdir(mode=0o700, exist_ok=True)
    part = path.with_suffix(".part")
    part.unlink(missing_ok=True)
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(content, file, indent=2)
    part.replace(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
