"""Starts the process that makes traffic, stops it, and reads what it wrote."""

import contextlib
import ipaddress
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from proof.report import Mark, Report, Request, read_requests

START_SECONDS = 20.0
# A request may take 30 s. So may a message's echo, then the next WebSocket if this one is told to go, then its goodbye.
STOP_SECONDS = 100.0


def loopback(url: str) -> str:
    """Return the URL if it is http:// or https:// and a loopback address or name, else raise `ValueError`.

    What is made here is a load, and nobody else's machine is to get it by a typing mistake.
    """
    try:
        parts = urlsplit(url)
        fits = parts.scheme in ("http", "https") and parts.path in ("", "/") and (parts.port or 80) > 0
        name = parts.hostname or ""
        # RFC 6761, section 6.3: whatever ends with .localhost is this machine
        fits = fits and (name.endswith(".localhost") or ipaddress.ip_address(name).is_loopback)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"door: got {url!r}; expected http:// or https:// with a loopback address, as in http://127.0.0.1:8080."
        )
    return url


class Traffic:
    """Every kind of traffic through every door, in a process of its own, while the ``with`` block runs.

    `doors` are base URLs by name; `rate` is how many quick requests are made per second, all doors together; slow
    requests, pages and WebSockets come on top, some 30 a second for each door. At the end of the block, every request
    under way gets its answer or its 30 seconds. For a slow machine, every pause and time limit is `slowness` times as long.
    A door with https:// is asked over HTTP/2, too, and its certificate is checked with the CA in the file `ca`.
    """

    def __init__(
        self, doors: Mapping[str, str], rate: float = 300.0, slowness: float = 1.0, ca: str | Path = ""
    ) -> None:
        self._doors = {name: loopback(url) for name, url in doors.items()}
        self._rate = rate
        self._slowness = slowness
        self._ca = str(ca)
        self._marks: list[Mark] = []
        self._requests: list[Request] = []

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="proof-")
        self._file = Path(self._directory.name) / "requests.csv"
        orders = {
            "doors": self._doors,
            "ca": self._ca,
            "rate": self._rate,
            "slowness": self._slowness,
            "file": str(self._file),
        }
        path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            [sys.executable, "-m", "proof.client", json.dumps(orders)],
            stdin=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,  # Ctrl-C is not for it: it ends when its stdin does
        )
        deadline = time.monotonic() + START_SECONDS * self._slowness
        while not self.report.requests and self.process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self.process.communicate(timeout=STOP_SECONDS * self._slowness)
        finally:
            self.process.kill()
            self.process.wait()
            self._requests = self.report.requests
            self._directory.cleanup()
        # Whatever else went wrong: without traffic nothing was proven.
        if self.process.returncode:
            raise RuntimeError(f"the process that makes traffic ended with {self.process.returncode}; it said why")

    @property
    def report(self) -> Report:
        """What is known by now; complete after the end of the block."""
        return Report(self._requests or read_requests(self._file), list(self._marks))

    def mark(self, label: str) -> None:
        """Note that something happens now."""
        now = time.time()
        self._marks.append(Mark(label, now, now))

    @contextlib.contextmanager
    def during(self, label: str) -> Iterator[None]:
        """Note that something happens from the start of the block to its end, also if it fails."""
        start = time.time()
        try:
            yield
        finally:
            self._marks.append(Mark(label, start, time.time()))
