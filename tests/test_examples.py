"""The examples are projects that the role takes: lock files with hashes, variables that it knows, pages that say how."""

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from packaging.utils import canonicalize_name
from support import REPOSITORY
from support.net import free_port
from support.product import TARGET, helper, load_module, load_yaml, plugin
from tornado.httpclient import AsyncHTTPClient
from tornado.websocket import websocket_connect

EXAMPLES = sorted(path.parent for path in (REPOSITORY / "examples").glob("*/apps.yml"))
RUNNER_LOCK = REPOSITORY / "requirements" / "runner.txt"
CHAT = REPOSITORY / "examples" / "chat"
each = pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)

lockfile, requirements = helper("lockfile"), helper("requirements")
preflight = load_module("tornado_app_preflight")
site_apps = plugin("plugin_utils", "site_apps")


def test_there_is_something_to_check() -> None:
    assert {path.name for path in EXAMPLES} == {"bokeh", "chat", "flower", "jupyter", "jupyterhub", "thumbor"}


def declared(example: Path) -> dict[str, Any]:
    """What the example's file has for its one application."""
    ((_, found),) = load_yaml(example / "apps.yml")["site_apps"].items()
    return dict(found)


@each
def test_it_is_an_application_as_a_site_may_have_it(example: Path) -> None:
    assert site_apps.mistaken_apps(load_yaml(example / "apps.yml")["site_apps"], {"app": ["app1"]}) == []
    given = declared(example)
    command = given["command"]
    params = {
        "factory": "",
        "command": command,
        "server": "tornado",
        "fork": False,
        "debug": False,
        "debug_switches": {},
    }
    assert preflight.run_mistakes(params) == []
    assert (REPOSITORY / "inventory/any" / given["source"].split("/", 1)[1]).resolve() == example


@each
def test_what_it_runs_is_in_its_package(example: Path) -> None:
    package = tomllib.loads((example / "pyproject.toml").read_text())["project"]["name"]
    words = declared(example)["command"]
    named = [word.split("{site}/")[1] for word in words if "{site}/" in word]
    assert package in words or named
    assert all((example / "src" / path).exists() for path in named)
    static = declared(example).get("static")
    assert not static or (example / "src" / static).is_dir()


@each
def test_no_secret_is_a_word_of_the_command_and_each_is_asked_of_the_user(example: Path) -> None:
    given = declared(example)
    assert not [word for word in given["command"] if re.search("token|password|auth|secret", word)]
    readme = (example / "README.md").read_text()
    for value in given.get("secrets", {}).values():
        name = re.fullmatch(r"\{\{ (vault_\w+) \}\}", value)
        assert name
        assert f"\n{name[1]}: " in readme


@each
def test_its_lock_has_hashes_and_its_own_needs_in_versions_that_the_runner_admits(example: Path) -> None:
    lock = example / "requirements.lock"
    found = lockfile.read_lock("tornado_app_requirements", lock)
    requirements.union(
        found, lockfile.read_lock("runner", RUNNER_LOCK), requirements.needs_of(REPOSITORY / "runner", []), [TARGET]
    )
    for need in tomllib.loads((example / "pyproject.toml").read_text())["project"]["dependencies"]:
        assert canonicalize_name(re.split(r"[\[<>=]", need)[0]) in found.names()
    assert "://" not in lock.read_text()


@each
def test_make_lock_makes_its_lock_file(example: Path) -> None:
    assert f" {example.relative_to(REPOSITORY)}" in (REPOSITORY / "Makefile").read_text()


@each
def test_its_page_shows_its_variables_as_they_are(example: Path) -> None:
    blocks = re.findall(r"^```yaml\n(.*?)^```", (example / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    given = declared(example)
    ((_, shown),) = yaml.safe_load(blocks[0])["site_apps"].items()
    assert {key: given.get(key) for key in shown} == shown
    assert shown["command"]


def test_bokeh_is_told_every_name_of_the_site() -> None:
    setting = declared(REPOSITORY / "examples/bokeh")["settings"]["BOKEH_ALLOW_WS_ORIGIN"]
    names = {"nginx_server_name": ["www.example.net", "example.net"]}
    templar = Templar(DataLoader(), names)
    assert templar.template(trust_as_template(setting)) == "www.example.net,example.net"


# ---- The chat, which needs nothing but Tornado ----


class Process:
    """The chat's own command under the runner."""

    def __init__(self, port: int, log: Path) -> None:
        words = declared(CHAT)["command"]
        command = [sys.executable, "-m", "eyewall", "--port", str(port), "--drain-timeout", "4", *words]
        source = os.pathsep.join([str(REPOSITORY / "runner" / "src"), str(CHAT / "src")])
        self.log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(command, stderr=stderr, env={**os.environ, "PYTHONPATH": source})

    async def serving(self) -> None:
        async with asyncio.timeout(20):
            while "serving" not in self.log.read_text():
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.05)


@pytest.fixture
def processes() -> Iterator[list[Process]]:
    started: list[Process] = []
    yield started
    for one in started:
        one.process.kill()
        one.process.wait()


async def heard(where: Any) -> list[str]:
    said = json.loads(await where.read_message())
    return [message["text"] for message in said["messages"]]


def test_the_chat_is_handed_over(processes: list[Process], tmp_path: Path) -> None:
    port = free_port()

    async def scenario() -> None:
        processes.append(Process(port, tmp_path / "old"))
        await processes[0].serving()
        old = await websocket_connect(f"ws://127.0.0.1:{port}/live")
        assert await heard(old) == []
        poll = AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/messages")
        await asyncio.sleep(0.2)
        await old.write_message("one")
        assert await heard(old) == ["one"]
        first = json.loads((await poll).body)["messages"][0]
        assert first["text"] == "one"

        processes.append(Process(port, tmp_path / "new"))
        await processes[1].serving()
        processes[0].process.terminate()
        assert await old.read_message() is None
        assert old.close_code == 1012
        old.close()
        new = await websocket_connect(f"ws://127.0.0.1:{port}/live?after={first['id']}")
        assert await heard(new) == []
        await new.write_message("two")
        assert await heard(new) == ["two"]
        new.close()
        assert await asyncio.to_thread(processes[0].process.wait, 20) == 0

    asyncio.run(scenario())
