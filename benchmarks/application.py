"""What the benchmarks deploy: the reference application with /hello, /echo and static files of known sizes.

python benchmarks/application.py .build/bench_app
"""

import argparse
import random
import shutil
from pathlib import Path

HERE = Path(__file__).resolve().parent
REFERENCE = HERE.parent / "app"
KB = 1024


def write_application(place: Path, name: str = "") -> Path:
    """Copy the reference application to `place`, with what a benchmark asks for; `name` makes it another release."""
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(REFERENCE, place, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "tests"))
    package = place / "src" / "board"
    shutil.copy(HERE / "bench_app.py", package / "bench_app.py")
    if name:
        with (package / "bench_app.py").open("a", encoding="utf-8") as module:
            module.write(f"\nNAME = {name!r}\n")
    for file, content in static_files().items():
        (package / "static" / file).write_bytes(content)
    return place


def static_files() -> dict[str, bytes]:
    """By name, files of 1 KB, 30 KB that compresses as a script does, and 1 MB that does not compress."""
    source = random.Random(0)  # noqa: S311 -- the same bytes on every machine
    script = (HERE.parent / "app" / "src" / "board" / "static" / "board.js").read_bytes()
    # the board's own script again and again would compress too well: each copy has names of its own
    copies = b"".join(
        b"// %d\n" % number + script.replace(b"const ", b"const _%x" % source.getrandbits(64)) for number in range(64)
    )
    return {"1k.txt": copies[:KB], "30k.js": copies[: 30 * KB], "1m.bin": source.randbytes(KB * KB)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("place", type=Path)
    parser.add_argument("--name", default="", help="makes it another release")
    given = parser.parse_args()
    write_application(given.place, given.name)
