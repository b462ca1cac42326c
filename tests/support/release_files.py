"""What the module release is given: the tar files of a release, as the build sends them."""

import hashlib
import io
import json
import os
import pwd
import sys
import tarfile
from pathlib import Path
from typing import Any

from support.wheels import wheel

USER = pwd.getpwuid(os.getuid()).pw_name
CSS = b"body { color: teal }\n" * 100
MAIN = "import sys\n\ndef main():\n    print(sys.prefix)\n"


def pack(tar: Path, files: dict[str, str | bytes]) -> Path:
    with tarfile.open(tar, "w") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            data = content.encode() if isinstance(content, str) else content
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return tar


def arguments(root: Path, **given: Any) -> dict[str, Any]:
    return {
        "root": str(root),
        "release": "1.0",
        "digest": "abc",
        "bundle": str(root / "releases" / "1.0.tar"),
        "environment": "py3.11.2-x86_64-glibc2.36-0123456789abcdef",
        "wheelhouse": str(root / "releases" / "1.0-wheelhouse.tar"),
        "python": sys.executable,
        "user": USER,
        "data": str(root),
        "timeout": 60,
        **given,
    }


def send(
    root: Path, release: str, *, application: str = "import greeting\n", lacks: str = "", **more: str
) -> dict[str, Any]:
    """Put the tar files of a release on the host; the module's arguments. `more` are files of its requirement."""
    file, data = wheel("greeting", {"greeting/__init__.py": MAIN, **more}, "greet = greeting:main")
    locked = f"greeting==1.0 --hash=sha256:{'0' * 64} --hash=sha256:{hashlib.sha256(data).hexdigest()}\n{lacks}"
    given = arguments(
        root,
        release=release,
        bundle=str(root / "releases" / f"{release}.tar"),
        wheelhouse=str(root / "releases" / f"{release}-wheelhouse.tar"),
    )
    pack(Path(given["wheelhouse"]), {"requirements.txt": locked, f"wheels/{file}": data})
    board, board_data = wheel("board", {"board/__init__.py": f"{application}{MAIN}"}, "board = board:main")
    manifest = json.dumps({"name": "board", "digest": "abc", "entry": "board:main"})
    files = {"manifest.json": manifest, f"wheels/{board}": board_data, "static/app.css": CSS + release.encode()}
    pack(Path(given["bundle"]), files)
    return given
