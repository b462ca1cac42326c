"""Development: a changed file shows, a broken one is survived, each of debug mode's switches works on its own."""

import http.client
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.runner import Eyewall, under_autoreload
from support.waiting import until

pytestmark = pytest.mark.slow

Start = Callable[..., Eyewall]
SAMPLE = "eyewall_sample:make_app"
DEBUG = {"autoreload": True, "compiled_template_cache": False, "static_hash_cache": False, "serve_traceback": True}
NOT_DEBUG = {name: not value for name, value in DEBUG.items()}

PAGES = """
import os
from tornado.web import Application, RequestHandler

class Page(RequestHandler):
    def get(self):
        self.write("first {} {}".format(os.getpid(), os.environ.get("SECRET")))

class Template(RequestHandler):
    def get(self):
        self.render("page.html")

class Raise(RequestHandler):
    def get(self):
        raise RuntimeError("in a handler")

def make_app(**settings):
    here = os.path.dirname(__file__)
    handlers = [("/", Page), ("/template", Template), ("/raise", Raise)]
    return Application(handlers, template_path=here, static_path=here, **settings)

def make_app_in_debug():
    return make_app(debug=True)

def make_app_of_production():
    return make_app(autoreload=False, compiled_template_cache=True, static_hash_cache=True, serve_traceback=False)
"""


@pytest.fixture
def pages(tmp_path: Path) -> Path:
    """Write the application that tests change."""
    (tmp_path / "page.html").write_text("template one {{ static_url('file.txt') }}")
    (tmp_path / "file.txt").write_text("one")
    module = tmp_path / "pages.py"
    module.write_text(PAGES)
    return module


def switches(values: dict[str, bool]) -> list[str]:
    return [f"--{'' if value else 'no-'}{name.replace('_', '-')}" for name, value in values.items()]


def ask(server: Eyewall, path: str = "/") -> str:
    """GET; the text of the answer, whatever its status; empty if nobody listens."""
    client = server.client()
    try:
        client.request("GET", path)
        return client.getresponse().read().decode()
    except (OSError, http.client.HTTPException):
        return ""
    finally:
        client.close()


def change(path: Path, text: str, condition: Callable[[], Any], what: str) -> None:
    """Write a file, and wait until `condition` is true.

    Autoreload takes what it finds half a second after its start as unchanged, so the file is touched until then.
    """
    path.write_text(text)
    number = path.stat().st_mtime

    def seen() -> Any:
        nonlocal number
        deadline = time.monotonic() + 0.8
        while not (result := condition()) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not result:
            number += 1
            os.utime(path, (number, number))
        return result

    until(seen, what)


def test_a_broken_file_is_survived_and_a_mended_one_picked_up(start: Start, pages: Path) -> None:
    server = start("pages:make_app", "--debug", command=under_autoreload).ready()
    assert ask(server) == f"first {server.process.pid} None"

    change(pages, PAGES + "def (\n", lambda: "starts again when" in server.log, "broken")
    assert "eyewall: pages:make_app: importing pages raised SyntaxError" in server.log
    assert f'File "{pages}", line {PAGES.count(chr(10)) + 1}' in server.log
    assert server.process.poll() is None
    assert ask(server) == ""

    mended = PAGES.replace("first", "second")
    change(pages, mended, lambda: ask(server), "mended")
    assert ask(server) == f"second {server.process.pid} None"
    server.ready()

    # its own program would stay
    server.send(signal.SIGINT)
    assert server.wait(5) == 0
    assert "drain ends" in server.log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_who_waits_for_a_mended_file(start: Start, pages: Path, number: signal.Signals) -> None:
    pages.write_text("import no_such_module_anywhere\n")
    server = start("pages:make_app", command=under_autoreload)
    server.logged("starts again when")
    server.send(number)
    assert server.wait(5) == -number
    assert "KeyboardInterrupt" not in server.log


def test_switches_are_nobodys_unless_given(start: Start) -> None:
    assert start(SAMPLE).ready().get("/settings") == dict.fromkeys(DEBUG)


@pytest.mark.parametrize("name", DEBUG)
def test_a_switch_takes_precedence_over_debug(start: Start, name: str) -> None:
    wanted = {name: NOT_DEBUG[name]}
    assert start(SAMPLE, "--debug", *switches(wanted)).ready().get("/settings") == DEBUG | wanted


def test_switches_turn_on_what_the_application_turns_off(start: Start, pages: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.touch(0o600)
    settings.write_text(json.dumps({"SECRET": "hunter1"}))
    server = start("pages:make_app_of_production", "--settings", str(settings), *switches(DEBUG)).ready()
    assert 'raise RuntimeError("in a handler")' in ask(server, "/raise")
    before = ask(server, "/template")
    assert before.startswith("template one ")

    (tmp_path / "file.txt").write_text("two")
    assert ask(server, "/template") != before
    (tmp_path / "page.html").write_text("template two")
    assert ask(server, "/template") == "template two"

    change(settings, json.dumps({"SECRET": "hunter2"}), lambda: "hunter2" in ask(server), "settings")
    change(settings, json.dumps({"OTHER": "hunter2"}), lambda: ask(server).endswith(" None"), "a setting that is gone")
    assert b"SECRET" not in Path(f"/proc/{server.process.pid}/environ").read_bytes()


def test_switches_turn_off_what_the_application_turns_on(start: Start, pages: Path, tmp_path: Path) -> None:
    server = start("pages:make_app_in_debug", "--debug", *switches(NOT_DEBUG)).ready()
    assert "RuntimeError" not in ask(server, "/raise")
    before = ask(server, "/template")
    assert before.startswith("template one /static/file.txt?v=")

    (tmp_path / "file.txt").write_text("two")
    (tmp_path / "page.html").write_text("template two {{ static_url('file.txt') }}")
    assert ask(server, "/template") == before

    # autoreload would note the files' times half a second after its start, and look again every half second
    time.sleep(0.6)
    pages.write_text(PAGES.replace("first", "second"))
    time.sleep(0.8)
    assert ask(server).startswith("first ")
    assert "restarting" not in server.log
