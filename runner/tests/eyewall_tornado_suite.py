"""Runs those of the installed Tornado's own tests that start an HTTP server, over a server, and writes each outcome as JSON.

python eyewall_tornado_suite.py bare|eyewall|tornado asyncio|uvloop [module …]
"""

import asyncio
import importlib
import inspect
import json
import logging
import re
import sys
import unittest
import warnings
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.test.runtests import TEST_MODULES

DOCTESTS = ".doctests"
# What starts a server of HTTP, by itself or through Tornado's base classes
STARTS_A_SERVER = re.compile(r"\bHTTPServer\b|\bAsyncHTTPS?TestCase|\.listen\(")


def starts_a_server(name: str) -> bool:
    """Say whether another server can have an influence on a module of tests."""
    return not name.endswith(DOCTESTS) and bool(
        STARTS_A_SERVER.search(inspect.getsource(importlib.import_module(name)))
    )


class Outcomes(unittest.TestResult):
    """By the test's name: ok, skipped, or the end of the traceback."""

    def __init__(self) -> None:
        super().__init__()
        self.outcomes: dict[str, str] = {}

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802 - unittest's name
        self.outcomes.setdefault(test.id(), "ok")

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802 - the same
        if isinstance(test, unittest.TestCase):  # not a whole class, which is abstract
            self.outcomes[test.id()] = "skipped"

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802 - the same
        self.outcomes[test.id()] = self._exc_info_to_string(err, test)  # type: ignore[attr-defined]

    addError = addFailure  # noqa: N815 - the same

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:  # noqa: N802 - the same
        if err is not None:
            self.addFailure(test, err)


def main() -> None:
    server, loop, *modules = sys.argv[1:]
    # as tornado.test.runtests has it
    warnings.filterwarnings("ignore")
    logging.getLogger("tornado.access").setLevel(logging.CRITICAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    if loop == "uvloop":
        import uvloop  # noqa: PLC0415 -- the guide has asyncio's own loop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    if server != "bare":
        from eyewall.bodies import Limits  # noqa: PLC0415 - bare Tornado is to stay bare
        from eyewall.server import Server  # noqa: PLC0415

        HTTPServer.configure(Server, core=server, limits=Limits(0, 0))
    names = modules or list(filter(starts_a_server, TEST_MODULES))
    outcomes = Outcomes()
    unittest.TestLoader().loadTestsFromNames(names).run(outcomes)
    json.dump(outcomes.outcomes, sys.stdout)


if __name__ == "__main__":
    main()
