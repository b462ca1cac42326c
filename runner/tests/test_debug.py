"""Debug mode in every mode of the runner: each part is in force, or refused by name; in production none of it is."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from eyewall.arguments import DEBUG
from eyewall.cli import main
from support.net import free_port
from support.runner import Eyewall

Start = Callable[..., Eyewall]

# An application that asks for debug mode in each way there is, and a program that does.
ASKS = """
import asyncio, sys
from tornado import autoreload
from tornado.web import Application, RequestHandler

class Raise(RequestHandler):
    def get(self):
        raise RuntimeError("hunter2")

class Settings(RequestHandler):
    def get(self):
        names = ("debug", "autoreload", "compiled_template_cache", "static_hash_cache", "serve_traceback")
        watches = autoreload._io_loops if hasattr(autoreload, "_io_loops") else {}
        self.write({"settings": {name: self.settings.get(name) for name in names}, "watches": len(watches) > 0})

HANDLERS = [("/raise", Raise), ("/", Settings)]

class Own(Application):
    def __init__(self):
        super().__init__(HANDLERS, debug=True)
        self.settings["serve_traceback"] = True
        self.settings.update(debug=True, autoreload=True)
        self.settings |= {"compiled_template_cache": False}

class Replaces(Application):
    def __init__(self):
        super().__init__(HANDLERS)
        self.settings = {"debug": True, "serve_traceback": True}

def plain():
    return Application(HANDLERS)

def debug():
    return Application(HANDLERS, debug=True)

def parts():
    return Application(HANDLERS, serve_traceback=True, autoreload=True, static_hash_cache=False)

async def program():
    globals()[sys.argv[1]]().listen(8888)
    autoreload.start()
    await asyncio.Event().wait()

if __name__ == "__main__":
    asyncio.run(program())
"""
ON = {name: f"--{'' if value else 'no-'}{name.replace('_', '-')}" for name, value in DEBUG.items()}
OFF = {name: f"--{'no-' if value else ''}{name.replace('_', '-')}" for name, value in DEBUG.items()}
NONE = {name: not value for name, value in DEBUG.items()}
MODES = {
    "factory": ([], ["asks:plain"]),
    "fork": (["--processes", "2"], ["asks:plain"]),
    "WSGI": (["--wsgi"], ["asks:plain"]),
    "program": ([], ["asks.py", "plain"]),
}
REFUSED = [(mode, option) for mode in ("fork", "WSGI", "program") for option in ("--debug", "--autoreload")] + [
    (mode, f"--production {option}") for mode in MODES for option in ("--debug", *ON.values())
]


@pytest.fixture
def asks(tmp_path: Path) -> Path:
    path = tmp_path / "asks.py"
    path.write_text(ASKS)
    return path


@pytest.mark.parametrize(("mode", "option"), REFUSED)
def test_refused(capsys: pytest.CaptureFixture[str], asks: Path, mode: str, option: str) -> None:
    options, target = MODES[mode]
    words = [str(asks) if word == "asks.py" else word for word in target]
    assert main(["--port", str(free_port()), *options, *option.split(), *words]) == 2
    text = capsys.readouterr().err
    assert re.fullmatch(
        rf"eyewall: {re.escape(option.rsplit(maxsplit=1)[-1])}: got it together with .*[^\n]\n", text
    ), text


def in_force(server: Eyewall) -> tuple[dict[str, Any], bool, bool]:
    """Return the settings that a handler sees, whether files are watched, and whether a traceback is served."""
    answer = server.get()
    client = server.client()
    client.request("GET", "/raise")
    response = client.getresponse()
    text = response.read().decode()
    client.close()
    assert response.status == 500, text
    assert ("Traceback" in text) == ("hunter2" in text)
    return answer["settings"], answer["watches"], "Traceback" in text


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_switches_are_in_force(start: Start, asks: Path, mode: str) -> None:
    """Every switch that is not refused; the control is the same without one, where nothing is on."""
    options, target = MODES[mode]
    wanted = DEBUG | ({} if mode == "factory" else {"autoreload": False})
    switches = [ON[name] if value == DEBUG[name] else OFF[name] for name, value in wanted.items()]
    settings, watches, traceback = in_force(start(target[0], *options, *switches, program=target[1:]).ready())
    assert (settings | {"debug": None}, watches, traceback) == (wanted | {"debug": None}, mode == "factory", True)
    settings, watches, traceback = in_force(start(target[0], *options, program=target[1:]).ready())
    assert (set(settings.values()), watches, traceback) == ({None}, False, False)


@pytest.mark.slow
@pytest.mark.parametrize("asked", ["debug", "parts", "Own", "Replaces"])
@pytest.mark.parametrize("mode", ["factory", "program"])
def test_in_production_nothing_of_it_is_in_force(start: Start, asks: Path, mode: str, asked: str) -> None:
    target = ["asks.py", asked] if mode == "program" else [f"asks:{asked}"]
    server = start(target[0], "--production", program=target[1:]).ready()
    assert in_force(server) == (NONE | {"debug": False}, False, False)
    if asked != "Replaces":
        assert "debug mode is off in production; the application asks for: autoreload, " in server.log
    # the control: without it the traceback is served
    assert in_force(start(target[0], "--no-autoreload", program=target[1:]).ready())[2] is True


@pytest.mark.slow
def test_in_production_under_gunicorn_and_forked(start: Start, asks: Path) -> None:
    for options in (["--wsgi"], ["--processes", "2"]):
        server = start("asks:debug", "--production", *options).ready()
        assert in_force(server) == (NONE | {"debug": False}, False, False)


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--processes", "2"], ["--wsgi"]])
def test_an_application_that_reloads_itself_is_refused_where_it_cannot(
    start: Start, asks: Path, options: list[str]
) -> None:
    server = start("asks:debug", *options)
    assert server.wait() == 2
    assert "autoreload: got an application that asks for it (debug=True does); expected none" in server.log
    settings, watches, traceback = in_force(start("asks:debug", "--no-autoreload", *options).ready())
    assert (settings["debug"], watches, traceback) == (True, False, True)


@pytest.mark.slow
def test_debug_is_as_if_the_application_had_asked(start: Start, asks: Path) -> None:
    assert json.dumps(in_force(start("asks:plain", "--debug").ready())) == json.dumps((
        {"debug": True, **DEBUG}, True, True,
    ))  # fmt: skip
