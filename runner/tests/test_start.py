"""What a process takes, and what it refuses with a sentence."""

import contextlib
import json
import os
import resource
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from support.net import free_port
from support.runner import Eyewall, refused, sentence

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"


@pytest.mark.parametrize(
    "target", ["eyewall_sample:make_app", "eyewall_sample:make_app_later", "eyewall_sample:application"]
)
def test_targets(start: Start, target: str) -> None:
    server = start(target).ready()
    assert server.get()["pid"] == server.process.pid
    assert f"serving {target} on 127.0.0.1:{server.port}" in server.log


@pytest.mark.parametrize(
    ("target", "wanted"),
    [
        ("eyewall_sample", "expected package.module:factory"),
        ("no_such_module:make_app", "there is no module 'no_such_module'"),
        ("eyewall_sample.inner:make_app", "eyewall_sample"),
        ("eyewall_sample:missing", "has no attribute 'missing'"),
        ("eyewall_sample:number", "got int; expected a tornado.web.Application"),
        ("eyewall_sample:returns_nothing", "got NoneType from the factory; expected a tornado.web.Application"),
    ],
)
def test_bad_targets(target: str, wanted: str) -> None:
    text = sentence("--port", str(free_port()), target)
    assert target in text
    assert wanted in text


def test_a_factory_that_raises_shows_where() -> None:
    text = refused("--port", str(free_port()), "eyewall_sample:raises")
    assert "eyewall: eyewall_sample:raises: the factory raised RuntimeError: no database here\n" in text
    assert 'eyewall_sample.py", line' in text


def test_an_import_that_raises_shows_where(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import eyewall_no_such_thing\n")
    text = refused("--port", str(free_port()), "broken:make_app", directory=tmp_path)
    assert "importing broken raised ModuleNotFoundError: No module named 'eyewall_no_such_thing'" in text
    assert 'broken.py", line 1' in text


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["--port", "0"], "--port: got '0'; expected a port from 1 to 65535"),
        (["--port", "65536"], "got '65536'; expected a port"),
        (["--port", "http"], "got 'http'; expected a port"),
        (["--max-buffered-body", "1MB"], "got '1MB'; expected a number of bytes, with k, M or G behind it or not"),
        ([], "--port"),
        (["--port", "8000", "--drain-timeout", "-1"], "got '-1'; expected 0 to 86400 seconds"),
        (["--port", "8000", "--drain-timeout", "nan"], "got 'nan'; expected 0 to 86400"),
        (["--port", "8000", "--backlog", "0"], "expected a number, 1 or more"),
        (["--port", "8000", "--trusted", "10.0.0.1/8"], "10.0.0.1/8 has host bits set"),
        (["--port", "8000", "--log-level", "loud"], "invalid choice: 'loud'"),
        (["--port", "8000", "--no-such-option"], "--no-such-option"),
        (["--port", "8000", "--address", "192.0.2.1"], "--address 192.0.2.1: this host does not have it"),
        (["--port", "8000", "--admin", "/no/such/directory/a.sock"], "--admin /no/such/directory/a.sock"),
        (["--port", "8000", "--admin", "/"], "--admin /: exists and is no socket"),
        (["--port", "8000", "--admin", "/dev/null/a.sock"], "--admin /dev/null/a.sock: Not a directory"),
        (["--port", "8000", "--address", "unix:a.sock"], "got 'unix:a.sock'; expected an absolute path"),
        (["--port", "8000", "--address", "unix:/dev/null/a.sock"], "unix:/dev/null/a.sock: Not a directory"),
        (["--port", "8000", "--address", f"unix:/{'x' * 300}"], "bytes than a Unix socket's path can be"),
        (["--port", "8000", "--admin", f"/{'x' * 300}"], "bytes than a Unix socket's path can be"),
    ],
)
def test_bad_options(arguments: list[str], wanted: str) -> None:
    assert wanted in sentence(*arguments, SAMPLE)


def test_a_port_that_another_program_has(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = start(SAMPLE, port=port)
        assert server.wait() == 2
    assert f"--port {port} on 127.0.0.1: taken by another program" in server.log
    assert list(server.admin.parent.glob("*.sock")) == []
    assert list(server.admin.parent.glob(".*.sock")) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_a_port_that_another_user_has() -> None:
    os.seteuid(65534)
    try:
        other = socket.socket()
    finally:
        os.seteuid(0)
    with other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert "another user's process" in sentence("--port", str(other.getsockname()[1]), SAMPLE)


# Settings


def settings_file(directory: Path, content: str, mode: int = 0o640) -> str:
    path = directory / "settings.json"
    path.write_text(content)
    path.chmod(mode)
    return str(path)


def test_settings_reach_the_application_and_nobody_else(start: Start, tmp_path: Path) -> None:
    path = settings_file(tmp_path, json.dumps({"DATABASE_PASSWORD": "hunter2", "RELEASE": "mine"}))
    server = start(SAMPLE, "--settings", path, "--release", "1.4.2").ready()
    answer = server.get("/environment")
    assert answer["DATABASE_PASSWORD"] == "hunter2"
    assert answer["RELEASE"] == "mine"
    assert answer["PORT"] == str(server.port)
    # who may read the file may read the environment (proc(5)), and nobody else; a command line is everybody's
    place = Path(f"/proc/{server.process.pid}")
    assert (place / "environ").stat().st_mode & 0o777 == 0o400
    assert b"hunter2" not in (place / "cmdline").read_bytes()
    assert "_EYEWALL" not in "".join(answer)


READ_AT_START = """
import sys, time
from pathlib import Path
from tornado.web import Application, RequestHandler

class Start(RequestHandler):
    def get(self):
        self.write({
            "hash": hash("eyewall"), "dev": sys.flags.dev_mode, "zone": time.tzname[0], "warnings": sys.warnoptions,
            "preloaded": "libutil" in Path("/proc/self/maps").read_text(),
        })

def make_app():
    return Application([("/", Start)])
"""


def test_settings_that_an_interpreter_reads_as_it_starts(start: Start, tmp_path: Path) -> None:
    (tmp_path / "starts.py").write_text(READ_AT_START)
    settings = {
        "PYTHONHASHSEED": "815",
        "PYTHONDEVMODE": "1",
        "PYTHONWARNINGS": "ignore",
        "TZ": "EYE-3",
        "LD_PRELOAD": "libutil.so.1",  # of glibc, and empty
    }
    path = settings_file(tmp_path, json.dumps(settings))
    one, other = (start("starts:make_app", "--settings", path).ready().get("/") for _ in range(2))
    assert one == other
    assert (one["dev"], one["zone"], one["preloaded"]) == (True, "EYE", True)
    assert "ignore" in one["warnings"]
    # the control: without the settings, none of it is so
    bare = start("starts:make_app").ready().get("/")
    assert (bare["dev"], bare["preloaded"]) == (False, False)
    assert bare["hash"] != one["hash"]
    assert bare["zone"] != "EYE"


def test_release_is_in_the_environment(start: Start) -> None:
    server = start(SAMPLE, "--release", "1.4.2").ready()
    assert server.get("/environment")["RELEASE"] == "1.4.2"


@pytest.mark.parametrize(
    ("content", "mode", "wanted"),
    [
        ("{}", 0o644, "got mode 0644; expected 0640"),
        ("{", 0o600, "got no JSON"),
        ("[]", 0o600, "got list; expected a JSON object of strings"),
        ('{"SECRET_NUMBER": 815}', 0o600, "got int as the value of 'SECRET_NUMBER'; expected a string"),
        ('{"A=B": "x"}', 0o600, "'A=B' cannot name an environment variable"),
        (
            json.dumps({"SECRET_NUMBER": "815" + 131072 * "0"}),
            0o600,
            "'SECRET_NUMBER': got 131075 characters; expected less",
        ),
    ],
)
def test_bad_settings(tmp_path: Path, content: str, mode: int, wanted: str) -> None:
    path = settings_file(tmp_path, content, mode)
    text = sentence("--port", str(free_port()), "--settings", path, SAMPLE)
    assert f"--settings {path}: " in text
    assert wanted in text
    assert "815" not in text


def test_no_settings_file() -> None:
    assert "cannot be read" in sentence("--port", "8000", "--settings", "no-such-file.json", SAMPLE)


# Limits


def test_the_soft_limit_is_raised(start: Start) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    try:
        server = start(SAMPLE, "--open-files", "600").ready()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert server.status()["open_files_limit"] == 600


def test_a_hard_limit_that_is_too_low() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    text = sentence("--port", "8000", "--open-files", str(hard + 1), SAMPLE)
    assert f"--open-files {hard + 1}: the hard limit of open files is {hard};" in text
    assert "LimitNOFILE=" in text


def test_a_capped_backlog_is_said_once(start: Start) -> None:
    somaxconn = int(Path("/proc/sys/net/core/somaxconn").read_text())
    server = start(SAMPLE, "--backlog", str(somaxconn + 1)).ready()
    assert server.log.count(f"--backlog {somaxconn + 1} is capped at {somaxconn}") == 1


def test_the_address_is_loopback_unless_said(start: Start) -> None:
    server = start().ready()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), 5)
    everywhere = start(SAMPLE, "--address", "0.0.0.0").ready()  # noqa: S104
    socket.create_connection(("127.0.0.2", everywhere.port), 5).close()


# Debug


def test_debug_sets_what_tornado_would_set(start: Start) -> None:
    assert start(SAMPLE, "--debug").ready().get("/settings") == {
        "autoreload": True,
        "compiled_template_cache": False,
        "static_hash_cache": False,
        "serve_traceback": True,
    }


def test_the_applications_own_settings_take_precedence(start: Start) -> None:
    assert start("eyewall_sample:make_app_with_own_setting", "--debug").ready().get("/settings") == {
        "autoreload": False,
        "compiled_template_cache": False,
        "static_hash_cache": False,
        "serve_traceback": False,
    }


def test_debug_reloads(start: Start, tmp_path: Path) -> None:
    module = tmp_path / "reloaded.py"
    text = "from tornado.web import Application, RequestHandler\nmake_app = Application\n# {}\n"
    module.write_text(text.format(1))
    server = start("reloaded:make_app", "--debug").ready()
    # autoreload notes the times of all files in its first turn, after half a second.
    for number in range(2, 100):
        module.write_text(text.format(number))
        os.utime(module, (number, number))
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(0.3)
        if "modified; restarting server" in server.log and server.log.count("serving reloaded:make_app") == 2:
            break
    server.ready()
    assert server.log.count("serving reloaded:make_app") >= 2
