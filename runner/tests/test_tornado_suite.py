"""Tornado's own tests over the runner's server have the outcomes that they have over Tornado's."""

import json
import subprocess
import sys

import pytest
import tornado
from eyewall_harness import TESTS, environment

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


def outcomes(server: str, loop: str, *modules: str) -> dict[str, str]:
    """By the test's name: ok, skipped, or the end of the traceback."""
    command = [sys.executable, str(TESTS / "eyewall_tornado_suite.py"), server, loop, *modules]
    # Tornado's 5 s for a test are little on a busy machine
    patient = environment() | {"ASYNC_TEST_TIMEOUT": "60"}
    output = subprocess.run(command, env=patient, check=True, capture_output=True, text=True).stdout
    found: dict[str, str] = json.loads(output)
    return {name.removeprefix("tornado.test."): how for name, how in found.items()}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("core", ["eyewall", "tornado"])
def test_tornados_own_tests_have_the_same_outcome(core: str, loop: str) -> None:
    modules = [] if core == "eyewall" else LISTENERS
    ours = outcomes(core, loop, *modules)
    assert len(ours) > 300
    failed = {name for name, how in ours.items() if how not in ("ok", "skipped")}
    failed -= MEANT if core == "eyewall" else set()
    # What fails here is to fail with Tornado's server as well; a test of time that failed once may succeed.
    tests = sorted(f"tornado.test.{name}" for name in failed)
    bare = outcomes("bare", loop, *tests) if tests else {}
    again = outcomes(core, loop, *tests) if tests else {}
    assert {name: again[name] for name in failed if again[name] != "ok" and bare[name] == "ok"} == {}
