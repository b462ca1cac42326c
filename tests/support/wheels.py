"""Wheels made by hand, right ones and others, for the tests of what installs them."""

import base64
import hashlib
import io
import zipfile

TAG = "py3-none-any"


def of_record(data: bytes, algorithm: str = "sha256") -> str:
    """A hash in the form of RECORD."""
    digest = hashlib.new(algorithm, data).digest()
    return f"{algorithm}={base64.urlsafe_b64encode(digest).decode().rstrip('=')}"


def wheel(
    name: str,
    files: dict[str, str | bytes],
    scripts: str = "",
    record: dict[str, str] | None = None,
    modes: dict[str, int] | None = None,
) -> tuple[str, bytes]:
    """Return the file name and the bytes of a wheel with these files.

    `scripts` are the lines of its console scripts, `record` what RECORD says otherwise, `modes` those of files (as in stat).
    """
    info, file = f"{name}-1.0.dist-info", io.BytesIO()
    files = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: {TAG}\n",
        **({f"{info}/entry_points.txt": f"[console_scripts]\n{scripts}\n"} if scripts else {}),
        **files,
    }
    contents = {path: content.encode() if isinstance(content, str) else content for path, content in files.items()}
    vouched = {path: of_record(content) for path, content in contents.items()} | (record or {})
    rows = "".join(f"{path},{digest},\n" for path, digest in vouched.items())
    with zipfile.ZipFile(file, "w") as archive:
        for path, content in contents.items():
            member = zipfile.ZipInfo(path)
            member.external_attr = (modes or {}).get(path, 0o100644) << 16
            archive.writestr(member, content)
        archive.writestr(f"{info}/RECORD", f"{rows}{info}/RECORD,,\n")
    return f"{name}-1.0-{TAG}.whl", file.getvalue()
