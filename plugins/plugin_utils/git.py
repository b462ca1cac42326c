"""Git on the controller: a repository as a source, and what a build backend asks git of a source."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import SplitResult, unquote, urljoin, urlsplit, urlunsplit

from ansible_collections.eyewall.tornado.plugins.plugin_utils.child import Refusal, run, without_credentials

RELEASE_NAME = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+_]{0,63}")
EXPECTED = (
    "expected git+https://, git+ssh:// or git+file://, then a repository, then, if wanted, @reference and "
    "#subdirectory=path inside it"
)
SUBMODULE, LINK = "160000", "120000"
# Of which repository a command is, where it is run inside of another one, as in a hook (git rev-parse --local-env-vars).
LOCAL = {
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR",
    "GIT_NAMESPACE", "GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_GRAFT_FILE", "GIT_REPLACE_REF_BASE", "GIT_CONFIG",
    "GIT_INTERNAL_SUPER_PREFIX", "GIT_IMPLICIT_WORK_TREE",
}  # fmt: skip
# What the controller's operator has set must not change a byte: line endings, links, filters, attributes, replaced objects.
ALIKE = [
    *("-c", "safe.directory=*", "-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false"),
    *("-c", f"core.attributesFile={os.devnull}", "-c", f"core.excludesFile={os.devnull}", "-c", "core.symlinks=true"),
    *("-c", "core.autocrlf=false", "-c", "core.eol=lf", "-c", "core.sparseCheckout=false"),
]


def alike() -> dict[str, str]:
    """The environment of a git that is the same for every operator."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    return kept | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_TERMINAL_PROMPT": "0",
    }


def owner(repository: Path) -> dict[str, Any]:
    """As which account root asks git: that of the repository, whose configuration may name programs."""
    status = repository.stat()
    if os.geteuid() or not status.st_uid:
        return {}
    return {"user": status.st_uid, "group": status.st_gid, "extra_groups": []}


def ask(*words: str | Path, given: bytes = b"", identity: dict[str, Any] | None = None, **variables: str) -> str | None:
    """What a git says that is the same for every operator; None where it fails, or is not there."""
    if not shutil.which("git"):
        return None
    command = ["git", *ALIKE, *(str(word) for word in words)]
    environment = alike() | variables
    done = subprocess.run(command, input=given, capture_output=True, env=environment, check=False, **(identity or {}))
    return os.fsdecode(done.stdout) if done.returncode == 0 else None


def tell(doing: str, *words: str | Path, **variables: str) -> None:
    """Let such a git do something; a Refusal where it fails."""
    run(["git", *ALIKE, *words], doing, alike() | variables, without=set(os.environ))


# ---- A repository as a source ----


@dataclass
class Exported:
    """The files of a commit, in a directory that goes away."""

    place: Path
    name: str = ""  # of the release, where a tag gives one
    history: History | None = None
    warnings: list[str] = field(default_factory=list)


class Repository:
    """A git repository, kept on the controller as a bare mirror of its branches and tags.

    Everything goes through the mirror's directory and the address alone: no remote is configured, so nothing of the
    address is written to disk. What may be a secret in it is told to git in its environment: everybody on the controller may
    read its arguments.
    """

    def __init__(self, source: str, build: Path, variable: str = "tornado_app_source") -> None:
        self.variable = variable
        parts, self.reference, self.subdirectory = self.parsed(source)
        self.shown = without_credentials(source)
        # never a question: nobody is there to answer it (git(1), GIT_TERMINAL_PROMPT; an empty GIT_ASKPASS is no program)
        self.variables = {
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "GIT_SSH_COMMAND": f"{os.environ.get('GIT_SSH_COMMAND', 'ssh')} -o BatchMode=yes",
        }
        host, user = parts.netloc.rpartition("@")[2], unquote(parts.username or "")
        if parts.scheme in ("https", "http") and "@" in parts.netloc:
            # a token is a user's name to some servers, and a password to others
            secret = base64.b64encode(f"{user}:{unquote(parts.password or '')}".encode()).decode()
            self.configure(f"http.{parts.scheme}://{host}/.extraHeader", f"Authorization: Basic {secret}")
        elif user:
            host = f"{parts.username}@{host}"
        self.address = urlunsplit((parts.scheme, host, parts.path, "", ""))
        self.build = build
        place = without_credentials(self.address)
        key = hashlib.sha256(place.encode()).hexdigest()[:16]
        self.mirror = build / "git" / f"{PurePosixPath(parts.path).stem}-{key}"

    def parsed(self, source: str) -> tuple[SplitResult, str, str]:
        """An address, its reference and its subdirectory. Raises Refusal, in which nothing of it is that may be a secret."""
        try:
            parts = urlsplit(source.removeprefix("git+"))
        except ValueError:
            raise Refusal(f"{self.variable}: got an address that is none; {EXPECTED}.") from None
        key, _, subdirectory = parts.fragment.partition("=")
        subdirectory = unquote(subdirectory)
        shown = without_credentials(f"git+{urlunsplit((*parts[:3], '', ''))}")
        if parts.query:
            raise Refusal(
                f"{self.variable}: got '{shown}' with a query; {EXPECTED}. A token stands before the host: git+https://TOKEN@…."
            )
        inside = not {"/", ".."} & set(PurePosixPath(subdirectory).parts) and "&" not in subdirectory
        if key not in ("", "subdirectory") or not inside:
            raise Refusal(f"{self.variable}: got '{shown}' with something else behind #; {EXPECTED}.")
        if parts.scheme not in ("https", "http", "ssh", "file") or (parts.scheme == "file" and parts.netloc):
            raise Refusal(f"{self.variable}: got '{shown}'; {EXPECTED}.")
        if parts.scheme == "ssh" and parts.password is not None:
            raise Refusal(
                f"{self.variable}: got '{shown}' with a password, which ssh does not take; use a key in your agent."
            )
        path, _, reference = parts.path.rpartition("@") if "@" in parts.path else (parts.path, "", "")
        return parts._replace(path=path), reference, subdirectory

    def configure(self, key: str, value: str) -> None:
        """Tell git a setting in its environment, behind those that the operator tells it there (git-config(1))."""
        count = int(self.variables.get("GIT_CONFIG_COUNT", os.environ.get("GIT_CONFIG_COUNT", "0")) or 0)
        self.variables |= {
            "GIT_CONFIG_COUNT": str(count + 1),
            f"GIT_CONFIG_KEY_{count}": key,
            f"GIT_CONFIG_VALUE_{count}": value,
        }

    def fetch(self, *wanted: str) -> None:
        """Fetch as the operator would: with the keys, proxies and certificates that their own git has."""
        if not shutil.which("git"):
            raise Refusal(f"{self.variable}: got '{self.shown}', and the controller has no git program; install git.")
        options = ("--quiet", "--prune", "--no-write-fetch-head", "--no-recurse-submodules", "--update-shallow")
        try:
            command = ["git", "--git-dir", str(self.mirror), "fetch", *options, "--", self.address, *wanted]
            run(command, f"Fetching {self.variable} '{self.shown}'", self.variables, without=LOCAL)
        except Refusal as refusal:
            raise Refusal(without_credentials(str(refusal))) from None

    def ask(self, *words: str | Path) -> str | None:
        return ask("--git-dir", self.mirror, *words)

    def commit(self, name: str) -> str | None:
        """The commit that a name stands for in the mirror; None for a name that it does not have."""
        found = self.ask("rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
        return found.strip() if found else None

    def find(self, reference: str) -> tuple[str, bool]:
        """The commit of a reference ("" for the default branch), and whether it is a tag.

        A tag and a commit never change: the remote is asked only for one that is not here yet.
        """
        tag, branch = f"refs/tags/{reference}", f"refs/heads/{reference}" if reference else "refs/default"

        def here(*names: str) -> tuple[str, bool] | None:
            for name in names:
                found = self.commit(name)
                # by itself a reference is a commit's own name, and neither HEAD nor a branch as it was last time
                if found and (name != reference or found.startswith(reference)):
                    return found, name == tag
            return None

        self.mirror.parent.mkdir(parents=True, exist_ok=True)
        if not shutil.which("git"):
            raise Refusal(f"{self.variable}: got '{self.shown}', and the controller has no git program; install git.")
        tell("Making a mirror", "init", "--quiet", "--bare", "--template=", self.mirror)
        if known := here(tag, reference):
            return known
        wanted = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"]
        # not always: a repository whose HEAD names a branch that it lacks has tags all the same
        wanted += [] if reference else ["+HEAD:refs/default"]
        self.fetch(*wanted)
        if known := here(tag, branch, reference):
            return known
        if re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", reference):
            # of a submodule, or of a branch that was rewritten; many servers give one that they still have
            with suppress(Refusal):
                self.fetch(f"{reference}:refs/commits/{reference}")
            if known := here(reference):
                return known
        tags = self.ask("for-each-ref", "--count=5", "--sort=-creatordate", "--format=%(refname:short)", "refs/tags")
        has = f"its newest tags are {', '.join(tags.split())}" if tags else "it has no tags"
        raise Refusal(f"{self.variable}: got '{self.shown}', which has no tag, branch or commit '{reference}'; {has}.")

    def check_out(self, commit: str, tree: Path, index: Path) -> list[str]:
        """Write the files of a commit, those of its submodules too; warnings of what is not as in a developer's directory."""
        tree.mkdir(exist_ok=True)
        # A checkout and no archive: it gives the files that a developer has, whatever .gitattributes says
        doing, place = f"Checking out '{self.shown}'", ("--git-dir", self.mirror, "--work-tree", tree)
        tell(doing, *place, "read-tree", commit, GIT_INDEX_FILE=str(index))
        tell(doing, *place, "checkout-index", "--quiet", "--all", "--force", GIT_INDEX_FILE=str(index))
        warnings = self.filtered(tree, index)
        for entry in listed("--git-dir", self.mirror, GIT_INDEX_FILE=str(index)):
            if entry.mode == SUBMODULE:
                warnings += self.submodule(commit, entry.path, entry.object, tree)
        return warnings

    def filtered(self, tree: Path, index: Path) -> list[str]:
        """A warning of files that a filter of the developers' git would have changed, which is a program of theirs."""
        if not any(b"filter=" in path.read_bytes() for path in tree.rglob(".gitattributes") if path.is_file()):
            return []
        place = ("--git-dir", self.mirror, "--work-tree", tree)
        files = ask(*place, "ls-files", "-z", GIT_INDEX_FILE=str(index)) or ""
        said = (
            ask(
                *place,
                "check-attr",
                "--cached",
                "-z",
                "--stdin",
                "filter",
                given=os.fsencode(files),
                GIT_INDEX_FILE=str(index),
            )
            or ""
        )
        words = said.split("\0")
        found = {
            f"{words[at]} ({words[at + 2]})"
            for at in range(0, len(words) - 2, 3)
            # lfs and git-crypt: what they leave is known by its content, and refused
            if words[at + 2] not in ("unspecified", "unset", "set", "lfs") and not words[at + 2].startswith("git-crypt")
        }
        if not found:
            return []
        return [
            f"{self.variable}: {', '.join(sorted(found)[:5])}{' and more' if len(found) > 5 else ''} went through no filter of "
            f"git's here, and {'is' if len(found) == 1 else 'are'} taken as committed."
        ]

    def submodule(self, commit: str, path: str, wanted: str, tree: Path) -> list[str]:
        """Check out a submodule into its place in a tree."""
        said = self.ask("config", "--blob", f"{commit}:.gitmodules", "--list", "-z") or ""
        settings = dict(line.partition("\n")[::2] for line in said.split("\0"))
        name = next((key[10:-5] for key, value in settings.items() if key.endswith(".path") and value == path), None)
        url = settings.get(f"submodule.{name}.url", "")
        if not url:
            raise Refusal(
                f"{self.variable}: got '{self.shown}' with a repository at '{path}' that .gitmodules does not name; expected "
                "its address there, or its files."
            )
        ours = urlsplit(self.address)
        if re.match(r"\.\.?/", url):
            url = urlunsplit(ours._replace(path=urljoin(f"{ours.path}/", url)))
        elif re.match(r"[\w.-]+@[\w.-]+:(?!/)", url):  # scp's form
            url = "ssh://" + url.replace(":", "/", 1)
        elif url.startswith("/"):
            url = f"file://{url}"
        scheme = urlsplit(url).scheme
        # a repository from elsewhere may not name what is on the controller, nor a program (git-remote-ext(1))
        if scheme not in ("https", "http", "ssh", "file") or (scheme == "file" and ours.scheme != "file"):
            raise Refusal(
                f"{self.variable}: got '{self.shown}' with the submodule '{path}' from '{without_credentials(url)}'; expected "
                "an address with https or ssh."
            )
        one = Repository(f"git+{url}@{wanted}", self.build, f"the submodule '{path}' of {self.variable}")
        if "GIT_CONFIG_COUNT" not in one.variables:
            one.variables |= self.variables  # the same host has the same credentials
        found, _ = one.find(wanted)
        with tempfile.TemporaryDirectory() as scratch:
            return one.check_out(found, tree / path, Path(scratch, "index"))

    @contextmanager
    def exported(self, version: str) -> Iterator[Exported]:
        """The files of the wanted commit in a temporary directory, and the name of the release if a tag gives one."""
        if version and self.reference not in ("", version):
            raise Refusal(
                f"tornado_app_version: got '{version}', and tornado_app_source has the reference '@{self.reference}'; expected "
                "one of the two: without @reference, tornado_app_version is the reference."
            )
        reference = self.reference or version
        commit, is_tag = self.find(reference)
        with tempfile.TemporaryDirectory() as scratch:
            tree, index = Path(scratch, "tree").resolve(), Path(scratch, "index")
            warnings = self.check_out(commit, tree, index)
            (tree / ".git").mkdir()  # as in a developer's directory: here it ends
            # a branch moves, and so names no release; a commit's name says nothing to anybody
            name = reference if is_tag and RELEASE_NAME.fullmatch(reference) else ""
            place = tree / self.subdirectory
            if not place.resolve().is_relative_to(tree):
                raise Refusal(f"{self.variable}: got '{self.shown}', whose subdirectory leads out of it; {EXPECTED}.")
            try:
                yield Exported(place, name, History(self.mirror, commit, index, tree, place), warnings)
            except Refusal as refusal:
                raise Refusal(str(refusal).replace(str(place), self.shown)) from None


# ---- A source in a developer's directory ----


@dataclass(frozen=True)
class Entry:
    """A file that git knows, from its index."""

    tag: str
    mode: str
    object: str
    path: str


def listed(*place: str | Path, identity: dict[str, Any] | None = None, **variables: str) -> list[Entry]:
    """What git knows of a place: nothing where it knows no repository."""
    said = ask(*place, "ls-files", "--stage", "-t", "-z", given=b"", identity=identity, **variables) or ""
    found = []
    for line in filter(None, said.split("\0")):
        head, _, path = line.partition("\t")
        tag, mode, name, *_ = head.split()
        found.append(Entry(tag, mode, name, path))
    return found


def top_of(directory: Path) -> Path | None:
    """The directory of the repository that a directory is in."""
    return next((folder for folder in (directory, *directory.parents) if (folder / ".git").exists()), None)


def check_complete(variable: str, directory: Path) -> None:
    """Refuse a checkout in which git has left something for another step."""
    top = top_of(directory)
    for entry in listed("-C", directory, identity=owner(top / ".git")) if top else []:
        path = directory / entry.path
        if entry.mode == SUBMODULE:
            if not path.is_dir() or not any(path.iterdir()):
                raise Refusal(
                    f"{variable}: got the submodule '{path}' without its files; expected them. Run: git submodule update "
                    "--init --recursive"
                )
            check_complete(variable, path)
        elif entry.tag == "S" and not os.path.lexists(path):
            raise Refusal(
                f"{variable}: got a sparse checkout without '{path}'; expected every file. Run: git sparse-checkout disable"
            )
        elif entry.mode == LINK and path.is_file() and not path.is_symlink():
            raise Refusal(
                f"{variable}: got the text of a link as the file '{path}'; expected the link itself. Run, in a file system that "
                "has links: git config core.symlinks true, and check the file out again."
            )


def check_filled(variable: str, top: Path, repository: Path | None, names: list[str]) -> None:
    """Refuse files in which only `git archive` fills something in (gitattributes(5), export-subst)."""
    place = ("-C", top, "--git-dir", repository, "--work-tree", top) if repository else ("-C", top)
    command = (*place, "check-attr", "-z", "--stdin", "export-subst")
    said = ask(*command, given=os.fsencode("\0".join(names)), identity=owner(repository or top / ".git")) or ""
    words = said.split("\0")
    if filled := [words[at] for at in range(0, len(words) - 2, 3) if words[at + 2] == "set"]:
        raise Refusal(
            f"{variable}: got '{filled[0]}' with $Format:…$, which git archive alone fills in (export-subst); expected a file "
            "that is complete. Let the build write it, as setuptools-scm and versioneer do."
        )


# ---- What a build backend asks git ----


@dataclass(frozen=True)
class History:
    """The repository that a source is of."""

    repository: Path  # its git directory
    commit: str
    index: Path
    top: Path
    source: Path

    @classmethod
    def of(cls, source: Path) -> History | None:
        """That of a developer's directory, None where there is none."""
        top = top_of(source)
        words = ("rev-parse", "--git-common-dir", "--git-path", "index", "HEAD")
        said = ask("-C", top, *words, identity=owner(top / ".git")) if top else None
        if not top or not said:
            return None
        common, index, commit = said.splitlines()
        return cls(top / common, commit, top / index, top, source)

    def ask(self, *words: str, given: bytes = b"", **variables: str) -> str:
        return (
            ask("--git-dir", self.repository, *words, given=given, identity=owner(self.repository), **variables) or ""
        )

    def fingerprint(self) -> str:
        """All that a backend may make something of."""
        tags = self.ask("for-each-ref", "--format=%(objectname) %(refname)", "refs/tags")
        files = self.ask("ls-files", "--stage", GIT_INDEX_FILE=str(self.index))
        return f"{self.commit}\n{tags}\n{files}"

    def lend(self, top: Path) -> None:
        """Make a repository in a copy of the source: commits and tags, without the content of files.

        What is not in the copy, or is a file where git has a link, counts as not changed.
        """
        if (self.repository / "shallow").exists():
            raise Refusal(
                "tornado_app_source: got a shallow clone, and its build asks git for a version; expected the whole history. Run: "
                "git fetch --unshallow --tags"
            )
        doing, git = "Giving the build what git knows", top / ".git"
        tell(doing, "init", "--quiet", "--template=", top)
        tags = self.ask("for-each-ref", "--format=%(objectname) %(refname)", "refs/tags")
        objects = "\n".join([self.commit, *(line.split()[0] for line in tags.splitlines())])
        # a pack and no fetch: nothing of a repository that may be somebody else's is followed
        packed = self.ask("pack-objects", "--quiet", "--revs", "--stdout", "--filter=blob:none", given=objects.encode())
        if ask("--git-dir", git, "index-pack", "--stdin", given=os.fsencode(packed)) is None:
            raise Refusal(f"{doing} failed: {self.repository} lacks commits.")
        (git / "packed-refs").write_text(tags)
        (git / "HEAD").write_text(f"{self.commit}\n")
        shutil.copyfile(self.index, git / "index")
        place = ("--git-dir", git, "--work-tree", top)
        inside = self.source.relative_to(self.top).parts
        unlike = [
            entry.path for entry in listed(*place)
            if entry.mode in (LINK, SUBMODULE) or PurePosixPath(entry.path).parts[: len(inside)] != inside
        ]  # fmt: skip
        ask(*place, "update-index", "-z", "--skip-worktree", "--stdin", given=os.fsencode("\0".join(unlike)))
