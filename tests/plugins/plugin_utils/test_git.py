"""A git repository as a source: which commit, every file of it, and no secret where somebody may read it."""

import base64
import json
import os
import shutil
import socket
import subprocess
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support.building import run_build, write
from support.product import helper


class Repository:
    """A repository with the application in `app`; `main` is its branch, and what is tagged 1.4.2 is older."""

    def __init__(self, path: Path, source: Path) -> None:
        self.path = path
        self.url = f"git+file://{path}"
        path.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        self.app = path / "app"
        source.rename(self.app)
        (self.app / "requirements.lock").touch()
        self.init = self.app / "src" / "board" / "__init__.py"
        self.init.write_text("first = make_app = dict\n")
        self.tagged = self.commit("first")
        self.git("tag", "1.4.2")
        self.init.write_text("make_app = list\n")
        self.head = self.commit("second")

    def git(self, *words: str) -> str:
        command = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "protocol.file.allow=always"]
        command += ["-C", str(self.path), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def commit(self, message: str) -> str:
        self.git("add", "--all", "--force")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repository(tmp_path: Path, source: Path) -> Repository:
    return Repository(tmp_path / "repository", source)


@pytest.fixture
def take(tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Take a source; the name that it gives, and what its application is."""

    def taken(source: str, version: str = "") -> tuple[str, str]:
        with helper("inputs").delivered(source, version, tmp_path / "build") as found:
            text = (found.place / "src" / "board" / "__init__.py").read_text()
            return found.name, "first" if "first" in text else "second"

    return taken


# ---- Which commit ----


def test_which_commit_a_reference_is_and_which_name_it_gives(
    repository: Repository, take: Callable[..., tuple[str, str]]
) -> None:
    url, end = repository.url, "#subdirectory=app"
    repository.git("branch", "feature/x", "1.4.2")
    repository.git("tag", "release/1", "1.4.2")
    # a tag's name is a release's, where it is one; all else is named by its content
    assert take(f"{url}@1.4.2{end}") == ("1.4.2", "first")
    assert take(f"{url}{end}", "1.4.2") == ("1.4.2", "first")
    assert take(f"{url}@1.4.2{end}", "1.4.2") == ("1.4.2", "first")
    assert take(f"{url}@release/1{end}") == ("", "first")
    assert take(f"{url}{end}") == ("", "second")
    assert take(f"{url}@main{end}") == ("", "second")
    assert take(f"{url}@feature/x{end}") == ("", "first")
    assert take(f"{url}{end}", "feature/x") == ("", "first")
    for commit in (repository.tagged, repository.tagged[:10]):
        assert take(f"{url}@{commit}{end}") == ("", "first")
    # a branch that looks like a commit is asked for all the same
    repository.git("branch", "20261122", "1.4.2")
    assert take(f"{url}@20261122{end}") == ("", "first")
    repository.git("branch", "--force", "20261122", "main")
    assert take(f"{url}@20261122{end}") == ("", "second")
    # a tag goes before a branch of its name, as git has it
    repository.git("branch", "1.4.2", "main")
    assert take(f"{url}@1.4.2{end}") == ("1.4.2", "first")


def test_a_branch_is_asked_for_each_time_and_a_tag_or_a_commit_once(
    repository: Repository, take: Callable[..., tuple[str, str]]
) -> None:
    url, end = repository.url, "#subdirectory=app"
    assert take(f"{url}{end}")[1] == "second"
    repository.git("reset", "--quiet", "--hard", "1.4.2")  # also backwards
    assert take(f"{url}{end}")[1] == "first"
    assert take(f"{url}@main{end}")[1] == "first"
    repository.git("checkout", "--quiet", "-b", "trunk")
    repository.git("branch", "--quiet", "--delete", "--force", "main")
    repository.path.rename(repository.path.with_name("gone"))
    for reference in ("1.4.2", repository.tagged):
        assert take(f"{url}@{reference}{end}")[1] == "first"
    with pytest.raises(
        helper("child").Refusal, match=r"Fetching tornado_app_source 'git\+file://.*@main.*' failed:\nfatal: "
    ):
        take(f"{url}@main{end}")
    repository.path.with_name("gone").rename(repository.path)
    with pytest.raises(helper("child").Refusal, match="no tag, branch or commit 'main'"):
        take(f"{url}@main{end}")
    assert take(f"{url}{end}")[1] == "first"  # the default branch has another name now


def test_a_commit_that_no_branch_leads_to(repository: Repository, take: Callable[..., tuple[str, str]]) -> None:
    """As after a rebase, or of a submodule."""
    repository.git("checkout", "--quiet", "--detach")
    repository.init.write_text("first = make_app = set\n")
    lost = repository.commit("lost")
    repository.git("checkout", "--quiet", "main")
    assert take(f"{repository.url}@{lost}#subdirectory=app") == ("", "first")


@pytest.mark.parametrize("reference", ["1.4.3", "0" * 40, "--help", "a b", "HEAD", "FETCH_HEAD", "refs/heads/main"])
def test_a_reference_that_is_not_there(
    repository: Repository, take: Callable[..., tuple[str, str]], reference: str
) -> None:
    with pytest.raises(helper("child").Refusal) as refused:
        take(f"{repository.url}#subdirectory=app", reference)
    assert str(refused.value) == (
        f"tornado_app_source: got '{repository.url}#subdirectory=app', which has no tag, branch or commit '{reference}'; "
        "its newest tags are 1.4.2."
    )


def test_two_references_are_refused(repository: Repository, take: Callable[..., tuple[str, str]]) -> None:
    with pytest.raises(
        helper("child").Refusal, match=r"tornado_app_version: got '1\.4\.2', and .* '@main'; expected one of the"
    ):
        take(f"{repository.url}@main", "1.4.2")


# ---- Its address ----


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("git+ftp://h/r.git", "got 'git+ftp://h/r.git'; expected git+https://"),
        ("git+https://h/r#egg=x", "got 'git+https://h/r' with something else behind #; expected git+https://"),
        ("git+https://h/r#subdirectory=app&token=SECRET", "got 'git+https://h/r' with something else behind #"),
        ("git+https://h/r#token=SECRET", "got 'git+https://h/r' with something else behind #"),
        ("git+https://h/r.git?private_token=SECRET", "got 'git+https://h/r.git' with a query; expected git+https://"),
        ("git+https://SECRET@h/r.git?x", "got 'git+https://h/r.git' with a query; expected git+https://"),
        ("git+ssh://git:SECRET@h/r.git", "got 'git+ssh://h/r.git' with a password, which ssh does not take"),
        ("git+file:///r#subdirectory=../x", "got 'git+file:///r' with something else behind #"),
        ("git+file:///r#subdirectory=/x", "got 'git+file:///r' with something else behind #"),
        ("git+file://h/r", "got 'git+file://h/r'; expected git+https://"),
        ("git+https://SECRET@[h/r", "got an address that is none; expected git+https://"),
    ],
)
def test_an_address_that_is_none(given: dict[str, Any], source: str, shown: str) -> None:
    result = run_build(**(given | {"source": source}))
    assert result["msg"].startswith(f"tornado_app_source: {shown}")
    # the invocation too, which Ansible shows with -vvv
    assert "SECRET" not in json.dumps(result)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("git+https://user:p%40ss@h/r.git@main", "git+https://h/r.git@main"),
        ("git+https://user:p@ss@h:8443/r.git", "git+https://h:8443/r.git"),
        ("git+ssh://git@h/r.git@1.4.2", "git+ssh://h/r.git@1.4.2"),
        ("https://token@h/r.git", "https://h/r.git"),
        ("https://h/r.whl?token=x#y", "https://h/r.whl?…#y"),
        ("git+https://h/r#token=x", "git+https://h/r#…"),
        ("git+https://h/r#subdirectory=a", "git+https://h/r#subdirectory=a"),
        ("git+https://h/r#subdirectory=a&token=x", "git+https://h/r#…"),
        ("git+https://h/r.git@user@x", "git+https://h/r.git@user@x"),
        ("git+file:///r@main", "git+file:///r@main"),
        ("fatal: 'https://u:p@h/r' and 'https://u:p@h/r?t=1'", "fatal: 'https://h/r' and 'https://h/r?…'"),
        ("/src/app@2?", "/src/app@2?"),
    ],
)
def test_what_is_shown_of_an_address(source: str, shown: str) -> None:
    assert helper("child").without_credentials(source) == shown


@contextmanager
def a_server_that_refuses() -> Iterator[tuple[int, list[str | None]]]:
    """Give the port of a web server that lets nobody in, and the credentials that it was shown."""
    seen: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="x"')
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port, seen
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("credentials", "header"),
    [
        ("robot-7:s3cr%40t", "robot-7:s3cr@t"),
        ("s3cr%40t", "s3cr@t:"),  # a token is all that some servers want
        ("s3cr%40t:", "s3cr@t:"),
        (":s3cr%40t", ":s3cr@t"),
    ],
)
def test_credentials_reach_the_server_and_neither_a_message_nor_a_file(
    given: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    credentials: str,
    header: str,
) -> None:
    # every command line of git, and of what git itself starts
    monkeypatch.setenv("GIT_TRACE", str(tmp_path / "trace"))
    monkeypatch.setenv("GIT_ASKPASS", "/bin/false")
    # what the operator tells git in the same way stays
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "http.extraHeader")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "X-Mine: 1")
    with a_server_that_refuses() as (port, seen):
        given["source"] = f"git+http://{credentials}@127.0.0.1:{port}/hello.git@main"
        result = run_build(**given)
    assert f"Basic {base64.b64encode(header.encode()).decode()}" in seen
    assert result["msg"].startswith(f"Fetching tornado_app_source 'git+http://127.0.0.1:{port}/hello.git@main' failed:")
    trace = (tmp_path / "trace").read_text()
    assert "remote-http" in trace
    written = [path.read_text(errors="replace") for path in Path(given["build"]).rglob("*") if path.is_file()]
    for text in (json.dumps(result), trace, *written):
        assert "s3cr" not in text
        assert "robot-7" not in text
    assert os.environ["GIT_ASKPASS"] not in trace, "nobody is asked"


def test_no_process_shows_a_token_while_a_server_lets_it_wait(given: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        given["source"] = f"git+http://T0K3N@127.0.0.1:{server.getsockname()[1]}/hello.git"
        shown: list[bytes] = []

        def look() -> None:
            connection, _ = server.accept()  # git has asked, and waits
            with connection:
                for file in Path("/proc").glob("[0-9]*/cmdline"):
                    try:
                        shown.append(file.read_bytes())
                    except OSError:  # it has ended
                        continue

        thread = threading.Thread(target=look)
        thread.start()
        result = run_build(**given)
        thread.join()
    assert any(b"remote-http" in line for line in shown), "the control: git's own processes were seen"
    assert not [line for line in shown if b"T0K3N" in line]
    assert "T0K3N" not in json.dumps(result)


# ---- Every file of it ----


@pytest.mark.slow
def test_the_same_files_are_the_same_release_however_they_come(
    given: dict[str, Any],
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (repository.app / ".gitattributes").write_text("src/board/static/app.css export-ignore\n*.txt text eol=crlf\n")
    (repository.app / "src" / "board" / "static" / "a.txt").write_bytes(b"a\r\nb\r\n")
    repository.commit("third")
    given |= {"lock": "", "source": str(repository.app)}
    directory = run_build(**given)
    assert directory["changed"] is True
    # another operator's git is of another opinion, and this run is in a hook of some other repository
    config = write(
        tmp_path, {"gitconfig": "[core]\n\tautocrlf = true\n\tsymlinks = false\n\tattributesFile = ~/attributes\n"}
    )
    write(tmp_path, {"attributes": "*.css ident eol=crlf working-tree-encoding=UTF-16\n"})
    for name, value in {"HOME": tmp_path, "GIT_CONFIG_GLOBAL": config / "gitconfig", "GIT_DIR": "/nowhere"}.items():
        monkeypatch.setenv(name, str(value))
    given["source"] = f"{repository.url}#subdirectory=app"
    fetched = run_build(**given)
    assert fetched | {"invocation": None} == directory | {"invocation": None, "changed": False}


def test_a_message_names_the_repository_and_not_a_temporary_directory(
    given: dict[str, Any], repository: Repository
) -> None:
    given |= {"lock": "requirements.lock", "source": repository.url}
    message = run_build(**given)["msg"]
    assert message.startswith(f"tornado_app_source: got '{repository.url}'; expected a directory with a pyproject.toml")
    (repository.app / "requirements.lock").unlink()
    repository.commit("without a lock file")
    given["source"] += "#subdirectory=app"
    assert run_build(**given)["msg"] == (
        f"tornado_app_requirements: got '{given['source']}/requirements.lock', where no file is; expected a lock. "
        "Make the lock with: uv lock, or uv pip compile --universal --generate-hashes pyproject.toml -o requirements.txt "
        "(see docs/your-application.md)."
    )


@pytest.fixture
def library(tmp_path: Path) -> Repository:
    """Return another repository, which becomes a submodule."""
    other = Repository(
        tmp_path / "library", write(tmp_path / "files", {"src/board/__init__.py": "", "x.js": "of a library"})
    )
    other.git("config", "uploadpack.allowAnySHA1InWant", "true")
    return other


@pytest.mark.slow
@pytest.mark.parametrize("url", ["../library", "{}"])
def test_submodules_are_delivered(tmp_path: Path, repository: Repository, library: Repository, url: str) -> None:
    """With an address of their own, or one that is relative to their repository's."""
    repository.git("submodule", "--quiet", "add", str(library.path), "app/src/board/lib")
    repository.git("config", "-f", ".gitmodules", "submodule.app/src/board/lib.url", url.format(library.path))
    repository.commit("with a submodule")
    with helper("inputs").delivered(f"{repository.url}#subdirectory=app", "", tmp_path / "build") as found:
        assert (found.place / "src/board/lib/app/x.js").read_text() == "of a library"


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("ext::sh -c id", "with the submodule 'app/lib' from 'ext::sh -c id'; expected an address with https or ssh."),
        ("../nowhere", "Fetching the submodule 'app/lib' of tornado_app_source 'git+file://"),
        (
            None,
            "with a repository at 'app/lib' that .gitmodules does not name; expected its address there, or its files.",
        ),
    ],
)
def test_submodules_that_cannot_be_had(
    tmp_path: Path, repository: Repository, library: Repository, url: str | None, sentence: str
) -> None:
    repository.git("submodule", "--quiet", "add", str(library.path), "app/lib")
    if url:
        repository.git("config", "-f", ".gitmodules", "submodule.app/lib.url", url)
    else:
        repository.git("rm", "--quiet", "--cached", ".gitmodules")
        (repository.path / ".gitmodules").unlink()
    repository.commit("with a submodule")
    with (
        pytest.raises(helper("child").Refusal) as refused,
        helper("inputs").delivered(f"{repository.url}#subdirectory=app", "", tmp_path / "build"),
    ):
        pass
    assert sentence in str(refused.value)


def test_a_repository_from_elsewhere_names_nothing_on_the_controller(helper: Callable[[str], ModuleType]) -> None:
    """As a submodule, which its own build could then read."""
    git = helper("git")
    one = git.Repository("git+https://h/r.git", Path("/nowhere"))
    one.ask = lambda *_: "submodule.x.path\nlib\0submodule.x.url\n/etc/secrets.git\0"
    with pytest.raises(
        git.Refusal, match=r"with the submodule 'lib' from 'file:///etc/secrets\.git'; expected an address"
    ):
        one.submodule("HEAD", "lib", "0" * 40, Path("/nowhere"))


@pytest.mark.slow
def test_a_link_of_a_repository_brings_nothing_of_the_controller(
    given: dict[str, Any],
    repository: Repository,
) -> None:
    """Of a directory it does: that is the operator's own."""
    static = repository.app / "src" / "board" / "static"
    write(repository.path, {"shared/a.js": "of the repository"})
    (static / "a.js").symlink_to("../../../../shared/a.js")
    (static / "hosts.js").symlink_to("/etc/hosts")
    repository.commit("with links")
    given |= {"lock": "requirements.lock", "source": str(repository.app)}
    warnings: list[str] = []
    for source, names in (
        (f"{repository.url}#subdirectory=app", {"a.js"}),
        (str(repository.app), {"a.js", "hosts.js"}),
    ):
        result = run_build(**(given | {"source": source}))
        warnings += result.get("warnings", [])
        (target,) = result["targets"].values()
        with tarfile.open(target["bundle"]) as tar:
            assert {Path(name).name for name in tar.getnames() if name.endswith(".js")} == names
    (warning,) = warnings
    assert warning.endswith("links that lead out of its repository: src/board/static/hosts.js.")
    (repository.path / "link").symlink_to("/etc")
    (repository.app / "requirements.lock").unlink()
    (repository.app / "requirements.lock").symlink_to("/etc/hosts")
    repository.commit("a lock file that is none")
    assert run_build(**(given | {"source": f"{repository.url}#subdirectory=app"}))["msg"] == (
        "tornado_app_source: got a link as 'requirements.lock' that leads out of the repository; expected a file in it."
    )
    message = run_build(**(given | {"source": f"{repository.url}#subdirectory=link"}))["msg"]
    assert message.startswith(
        f"tornado_app_source: got '{repository.url}#subdirectory=link', whose subdirectory leads out of it;"
    )


@pytest.mark.slow
def test_what_a_filter_would_have_made_is_said(
    given: dict[str, Any],
    repository: Repository,
) -> None:
    write(repository.app, {".gitattributes": "*.css filter=vault\n*.js filter=lfs\n", "src/board/a.js": "no pointer"})
    repository.commit("with a filter")
    given |= {"lock": "requirements.lock", "source": f"{repository.url}#subdirectory=app"}
    assert run_build(**given)["warnings"] == [
        "tornado_app_source: app/src/board/static/app.css (vault) went through no filter of git's here, and is taken as "
        "committed."
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "a pointer of Git LFS. Run: git lfs pull",
        ),
        (b"/annex/objects/SHA256E-s1--0.js\n", "a pointer of git-annex. Run: git annex get ."),
        (b"\0GITCRYPT\0" + bytes(9000), "encrypted by git-crypt. Run: git-crypt unlock"),
    ],
)
@pytest.mark.parametrize("how", ["directory", "git"])
def test_no_placeholder_is_shipped(
    given: dict[str, Any],
    repository: Repository,
    content: bytes,
    what: str,
    how: str,
) -> None:
    write(repository.app, {"src/board/static/big.js": content})
    repository.commit("with a pointer")
    given["lock"] = "requirements.lock"
    given["source"] = str(repository.app) if how == "directory" else f"{repository.url}#subdirectory=app"
    message = run_build(**given)["msg"]
    assert message == f"tornado_app_source: got 'board/static/big.js' in board-1.0.0-py3-none-any.whl, which is {what}"


@pytest.mark.slow
@pytest.mark.parametrize("how", ["directory", "git"])
def test_what_only_git_archive_fills_in_is_not_shipped(given: dict[str, Any], repository: Repository, how: str) -> None:
    write(repository.app, {"src/board/commit.py": "COMMIT = '$Format:%H$'\n", "src/board/a.py": "'$Format:%H$'\n"})
    write(repository.path, {".gitattributes": "commit.py export-subst\n"})
    repository.commit("with a field")
    given["lock"] = "requirements.lock"
    given["source"] = str(repository.app) if how == "directory" else f"{repository.url}#subdirectory=app"
    assert run_build(**given)["msg"].startswith(
        "tornado_app_source: got 'app/src/board/commit.py' with $Format:…$, which git archive alone fills in (export-subst);"
    )
    write(repository.path, {".gitattributes": ""})
    repository.commit("a text")
    assert run_build(**given)["changed"] is True


# ---- A developer's checkout ----


@pytest.mark.slow
def test_a_submodule_that_was_not_checked_out(
    given: dict[str, Any],
    repository: Repository,
    library: Repository,
    tmp_path: Path,
) -> None:
    repository.git("submodule", "--quiet", "add", str(library.path), "app/src/board/lib")
    repository.commit("with a submodule")
    repository.git("clone", "--quiet", str(repository.path), str(tmp_path / "clone"))
    given["source"] = str(tmp_path / "clone" / "app")
    message = run_build(**given)["msg"]
    assert message == (
        f"tornado_app_source: got the submodule '{given['source']}/src/board/lib' without its files; expected them. Run: git "
        "submodule update --init --recursive"
    )
    repository.path = tmp_path / "clone"
    repository.git("submodule", "--quiet", "update", "--init")
    assert run_build(**given)["changed"] is True


def test_a_sparse_checkout(given: dict[str, Any], repository: Repository) -> None:
    given["source"] = str(repository.app)
    repository.git("sparse-checkout", "set", "--no-cone", "/*", "!*.css")
    given["static"] = ""
    message = run_build(**given)["msg"]
    assert message == (
        f"tornado_app_source: got a sparse checkout without '{repository.app}/src/board/static/app.css'; expected every file. "
        "Run: git sparse-checkout disable"
    )


@pytest.mark.slow
def test_links_that_became_text(given: dict[str, Any], repository: Repository) -> None:
    given["source"] = str(repository.app)
    (link := repository.app / "src" / "board" / "b.css").symlink_to("static/app.css")
    repository.commit("with a link")
    assert run_build(**given)["changed"] is True
    link.unlink()
    link.write_text("static/app.css")
    message = run_build(**given)["msg"]
    assert message.startswith(
        f"tornado_app_source: got the text of a link as the file '{link}'; expected the link itself."
    )


# ---- What a backend asks git ----

# As setuptools-scm does: a version from tags, and nothing that git does not know.
ASKS_GIT = """
import subprocess
import backend

def git(*words):
    return subprocess.run(["git", *words], check=True, capture_output=True, text=True).stdout.strip()

def build_wheel(out, *_):
    with open("src/board/version.txt", "w") as file:
        dirty = git("status", "--porcelain", "--untracked-files=no")
        ignored = git("ls-files", "--others", "--ignored", "--exclude-standard")
        print(git("describe", "--tags", "--long"), dirty, ignored, file=file)
    return backend.build_wheel(out)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["directory", "git"])
def test_a_backend_that_asks_git_is_answered(
    helper: Callable[[str], ModuleType],
    given: dict[str, Any],
    repository: Repository,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    """With the tags and the state of the developer's directory, and without writing there."""
    # no index is asked for setuptools-scm
    monkeypatch.setattr(helper("builder").Builder, "closure", lambda *_: {})
    write(repository.app, {"ask.py": ASKS_GIT, ".gitignore": "*.log\n"})
    text = (repository.app / "pyproject.toml").read_text()
    text = text.replace('"backend"', '"ask"').replace("requires = []", 'requires = ["setuptools_scm>=8"]')
    (repository.app / "pyproject.toml").write_text(text)
    (repository.app / "link.css").symlink_to("src/board/static/app.css")
    commit = repository.commit("asks git")[:7]
    given["source"] = str(repository.app) if how == "directory" else f"{repository.url}#subdirectory=app"

    def said() -> str:
        bundle = next(iter(run_build(**given)["targets"].values()))["bundle"]
        (made,) = {path for path in Path(given["build"]).glob("wheels/*/board-*.whl") if newest(path)}
        assert Path(bundle).exists()
        return zipfile.ZipFile(made).read("board/version.txt").decode().strip()

    def newest(path: Path) -> bool:
        return path == max(Path(given["build"]).glob("wheels/*/board-*.whl"), key=lambda one: one.stat().st_mtime_ns)

    before = {path: path.read_bytes() for path in repository.path.rglob("*") if path.is_file()}
    assert said() == f"1.4.2-2-g{commit}"
    assert {path: path.read_bytes() for path in repository.path.rglob("*") if path.is_file()} == before
    # a tag is another version, and a file of the same repository elsewhere is none
    write(repository.path, {"elsewhere.txt": ""})
    repository.git("tag", "1.5.0")
    assert said() == f"1.5.0-0-g{commit}"
    if how == "directory":
        write(repository.app, {"src/board/debug.log": "", "src/board/__init__.py": "make_app = set\n"})
        assert said() == f"1.5.0-0-g{commit} M app/src/board/__init__.py src/board/debug.log"
        shutil.copytree(repository.path, shallow := repository.path.with_name("shallow"), symlinks=True)
        (shallow / ".git" / "shallow").write_text(f"{repository.head}\n")
        given["source"] = str(shallow / "app")
        write(shallow / "app", {"src/board/__init__.py": "make_app = frozenset\n"})
        assert "got a shallow clone, and its build asks git" in run_build(**given)["msg"]
