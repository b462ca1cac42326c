"""Make a new site's directory: `python scripts/new_site.py ../mysite`.

It holds an inventory for each environment, the version of Eyewall that it uses, and a Makefile. Nothing in it is a link to this
repository, and nothing in this repository is to be edited for it.
"""

import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ("production", "staging")


def git(*words: str) -> str:
    """What git says of this repository; "" if it says nothing."""
    done = subprocess.run(["git", *words], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def requirement() -> str:
    """`requirements.yml`: where this repository comes from, and which version of it this is."""
    address = git("remote", "get-url", "origin") or f"file://{REPOSITORY}"
    version = git("describe", "--tags", "--exact-match") or git("rev-parse", "HEAD")
    prefix = "" if address.startswith("git@") else "git+"
    source = f"  - name: {prefix}{address}\n    type: git\n    version: {version}\n"
    return f"---\n# Eyewall; a newer version is another tag\ncollections:\n{source}"


def settings() -> str:
    """`ansible.cfg`: this repository's, without its default inventory: a site has several."""
    lines = (REPOSITORY / "ansible.cfg").read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("inventory =", "# a link")))


def main(directory: Path) -> str | None:
    """Make the directory; return the sentence of what stands in the way, or None."""
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        return f"DIR: got {directory}, which exists; expected a new directory, or an empty one."
    if REPOSITORY in (directory.resolve(), *directory.resolve().parents):
        return f"DIR: got {directory}, in Eyewall's own repository; expected a directory outside it, such as ../mysite."
    template = REPOSITORY / "site_template"
    for name in ENVIRONMENTS:
        shutil.copytree(REPOSITORY / "inventory" / name, directory / "inventory" / name)
    shutil.copytree(template, directory, dirs_exist_ok=True)
    (directory / "gitignore").rename(directory / ".gitignore")
    shutil.copy(REPOSITORY / "requirements" / "site.txt", directory / "requirements.txt")
    (directory / "requirements.yml").write_text(requirement(), encoding="utf-8")
    (directory / "ansible.cfg").write_text(settings(), encoding="utf-8")
    return None


if __name__ == "__main__":
    if sentence := main(Path(sys.argv[1])):
        sys.exit(sentence)
    sys.stdout.write(f"{sys.argv[1]} is made. Its README.md says what to write where.\n")
