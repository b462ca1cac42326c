"""Ansible module: a release on a host, from its bundle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
module: tornado_app_release
short_description: Install a release beside the ones that are there
description:
  - Unpacks the bundle, makes a virtualenv from its wheelhouse, imports the factory, publishes the static files under the hash of
    their content, and only then gives the release its C(release.json). A directory without that file is unfinished and made anew.
  - Nothing that runs is touched.
options:
  root: {type: path, required: true, description: The application's directory on the host.}
  release: {type: str, required: true, description: Name of the release.}
  digest: {type: str, required: true, description: SHA-256 of what the release was built from.}
  bundle: {type: path, required: true, description: The bundle on this host; read when the release is not there, then removed.}
  python: {type: path, required: true, description: The interpreter of the virtualenv.}
"""

# Dates between 2001 and 2017: nginx makes ETag and Last-Modified of a file's date and size.
FIRST_DATE, DATES = 1_000_000_000, 500_000_000


def publish(static: Path, store: Path) -> None:
    """Put each static file where `?v=` finds it: `store/<SHA-512 of its content>/<path>`, compressed forms beside it.

    The hash is Tornado's (`StaticFileHandler.get_content_version`). Files get a date made of their content, so that
    every host gives the same ETag, and two contents of one size never the same: nginx's ETag is date and size.
    """
    for file in sorted(static.rglob("*")):
        compressed = file.suffix in (".gz", ".br") and file.with_suffix("").is_file()
        if compressed or not file.is_file():
            continue
        content = hashlib.sha512(file.read_bytes()).hexdigest()
        date = FIRST_DATE + int(content[:12], 16) % DATES
        for variant in (file, file.with_name(f"{file.name}.gz"), file.with_name(f"{file.name}.br")):
            if not variant.exists():
                continue
            os.utime(variant, (date, date))
            published = store / content / variant.relative_to(static)
            published.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
            # One file, a link to it from each release that names it: the last link is the store's own, and
            # then tornado_app_prune removes it. A link and a rename: a reader sees the whole file or none.
            there, link = (published, variant) if published.exists() else (variant, published)
            with tempfile.TemporaryDirectory(dir=store) as scratch:
                os.link(there, unfinished := Path(scratch, "file"))
                unfinished.rename(link)


def install(module: AnsibleModule, place: Path) -> None:
    """Make the virtualenv and import the factory in it."""
    venv = place / "venv"
    interpreter = str(venv / "bin" / "python")
    wheels = [str(wheel) for wheel in sorted((place / "wheels").glob("*.whl"))]
    pip = [interpreter, "-m", "pip", "install", "--quiet", "--no-cache-dir", "--no-index"]
    locked = ["--find-links", str(place / "wheelhouse"), "--require-hashes", "-r", str(place / "requirements.txt")]
    module.run_command([module.params["python"], "-m", "venv", str(venv)], check_rc=True)
    module.run_command([*pip, *locked], check_rc=True)
    module.run_command([*pip, "--no-deps", *wheels], check_rc=True)
    name, _, attribute = json.loads((place / "manifest.json").read_text())["factory"].partition(":")
    code = f"import importlib; getattr(importlib.import_module({name!r}), {attribute!r})"
    status, _, error = module.run_command([interpreter, "-I", "-c", code], cwd="/")
    if status:
        module.fail_json(
            msg=f"tornado_app_factory is '{name}:{attribute}', and importing it on this host failed:\n{error.strip()}"
        )
    for directory in ("wheels", "wheelhouse"):
        shutil.rmtree(place / directory)


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "release": {"type": "str", "required": True},
            "digest": {"type": "str", "required": True},
            "bundle": {"type": "path", "required": True},
            "python": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    root, release = Path(module.params["root"]), module.params["release"]
    place = root / "releases" / release
    done = place / "release.json"
    if done.exists():
        staged = json.loads(done.read_text())["digest"]
        if staged != module.params["digest"]:
            module.fail_json(
                msg=f"tornado_app_version is '{release}', which is on this host already with other content; a release never "
                "changes, so allowed is a new name, or none: it is then made of version and content."
            )
        module.exit_json(changed=False)
    if not module.check_mode:
        if place.exists():
            shutil.rmtree(place)
        os.umask(0o022)  # whatever the connection's is: the application reads below it
        place.mkdir()
        module.run_command(
            [
                "tar",
                "--extract",
                "--no-same-owner",
                "--file",
                module.params["bundle"],
                "--directory",
                str(place),
            ],
            check_rc=True,
        )
        install(module, place)
        if (place / "static").is_dir():
            publish(place / "static", root / "static")
        manifest = {"release": release, "digest": module.params["digest"], "python": sys.version.split()[0]}
        unfinished = done.with_suffix(".part")
        unfinished.write_text(json.dumps(manifest))
        unfinished.rename(done)
        Path(module.params["bundle"]).unlink()
    module.exit_json(changed=True, diff={"before": "", "after": f"{place}\n"})


if __name__ == "__main__":
    main()
