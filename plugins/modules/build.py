"""Build the bundle of a release: what ansible-doc says of it. The work is the controller's, in plugins/action/build.py."""

from __future__ import annotations

DOCUMENTATION = r"""
module: build
short_description: Build what hosts install of a release, once, on the controller
description:
  - A bundle is a tar file with the application's and the runner's wheels and the static files, compressed beforehand. A
    wheelhouse is a tar file with every locked requirement for one Python version, architecture and C library, which together are
    an environment. A host that has the environment needs the bundle alone, and no host needs a package index.
  - They are made again only when the source, the lock file or the runner changed. A release is named by what its wheels have,
    so that the same source is the same release on every controller.
  - The application is imported on the controller, where an interpreter of a host's version is there, so that one that
    cannot be imported stops before any host is touched.
  - Build backends and the application are run with an environment of their own, and as C(nobody) where the operator is root.
options:
  name: {type: str, required: true, description: Name of the application.}
  source:
    description:
      - A directory with the application's C(pyproject.toml); or its wheel; or a git repository as pip names one,
        C(git+https://host/repository.git@reference#subdirectory=path), with C(https), C(ssh) or C(file).
      - Without C(@reference), the reference is O(version), else the repository's default branch.
    type: path
    required: true
  lock:
    description:
      - The application's lock, with every requirement pinned and with hashes - a C(uv.lock), a C(pylock.toml), or a requirements
        file. A relative path is looked for in the source directory, the repository's subdirectory, or the directory of the wheel.
      - Empty for the one that is there of C(pylock.toml), C(uv.lock), C(requirements.lock) and C(requirements.txt).
    type: path
    default: ""
  backends: {type: path, required: true, description: "Build backends, pinned and with hashes, for whoever pins none."}
  build_requirements:
    description: What the build needs, pinned and with hashes like O(lock), where the application pins it itself; or empty.
    type: path
    default: ""
  runner: {type: path, required: true, description: Directory with the runner's C(pyproject.toml).}
  runner_lock:
    description: What the runner needs, pinned and with hashes. Of it comes what O(lock) does not have.
    type: path
    required: true
  extras: {type: list, elements: str, default: [], description: "Extras of the runner that are needed, as in C(gunicorn)."}
  entry:
    description: What is run, C(package.module:factory), C(-m module), C({site}/file) for a file of the application, or a
      console script's name.
    type: str
    required: true
  static: {type: str, default: "", description: "Directory of static files inside the application's wheel."}
  version:
    description: Name of the release, by default made of version and content. For a git repository it is the reference, whose
      name the release has when it is a tag. For a wheel it is the wheel's own version or empty.
    type: str
    default: ""
  targets:
    description: C(python) as in C(3.11), C(python_full) as in C(3.11.2), C(machine), C(glibc) as in C(2.36).
    type: list
    elements: dict
    required: true
  build: {type: path, required: true, description: "Directory for what is built, kept between runs."}
  declared_in: {type: str, default: "", description: "Where the inputs are written, as in C(site_apps.board), for messages."}
"""
