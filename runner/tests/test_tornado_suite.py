"""Tornado's own tests over the runner's server have the outcomes that they have over Tornado's."""

import json
import subprocess
import sys

import pytest
import tornado
from support.runner import TESTS, environment

pytestmark = pytest.mark.slow

LISTENERS = [
    f"tornado.test.{name}_test" for name in ("httpserver", "web", "websocket", "simple_httpclient", "circlerefs")
]
# Tornado before 6.5.3 gives each chunk of a body to the application. Here small ones are put together, as Tornado 6.6 does.
CHUNKS = {
    "httpserver_test.StreamingChunkSizeTest.test_chunked_body",
    "web_test.DecoratedStreamingRequestFlowControlTest.test_flow_control_chunked_body",
    "web_test.NativeStreamingRequestFlowControlTest.test_flow_control_chunked_body",
}
MEANT = CHUNKS if tornado.version_info < (6, 6) else set()

ATTEMPTS = 4


def kind(how: str) -> str:
    return how if how in ("ok", "skipped") else "failed"


def outcomes(server: str, loop: str, *modules: str) -> dict[str, str]:
    """By the test's name: ok, skipped, or the end of the traceback."""
    command = [sys.executable, str(TESTS / "eyewall_tornado_suite.py"), server, loop, *modules]
    # For a busy machine: 60 s instead of 5 for a test, and 0.5 s instead of 0.1 for the answer to a timeout of Tornado's client
    patient = environment() | {"ASYNC_TEST_TIMEOUT": "60", "EMULATION": "1"}
    output = subprocess.run(command, env=patient, check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(output)
    return {name.removeprefix("tornado.test."): how for name, how in found.items()}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("core", ["eyewall", "tornado"])
def test_tornados_own_tests_have_the_same_outcome(core: str, loop: str) -> None:
    modules = [] if core == "eyewall" else LISTENERS
    ours = outcomes(core, loop, *modules)
    assert len(ours) > 300
    differ = {name for name, how in ours.items() if how != "ok"} - (MEANT if core == "eyewall" else set())
    # What fails or is skipped here is to be so with Tornado's server as well. A test of time may fail with either, so it has some
    # more attempts, both servers side by side.
    for _ in range(ATTEMPTS):
        tests = sorted(f"tornado.test.{name}" for name in differ)
        bare, ours = (outcomes(server, loop, *tests) if tests else {} for server in ("bare", core))
        differ = {name for name in differ if kind(ours[name]) != kind(bare[name])}
    assert {name: (ours[name], bare[name]) for name in differ} == {}
