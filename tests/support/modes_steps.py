"""A client for any program: every request that it makes has to be answered."""

import contextlib
import http.client
import threading
import time
from collections.abc import Iterator
from typing import Any, Self
from urllib.parse import urlsplit

import yaml

from support import REPOSITORY
from support.fleet import Fleet

PATIENCE = 180  # seconds


class Asking:
    """Asks for a path again and again, on new connections and on kept ones; `lost` says which had no good answer."""

    def __init__(self, door: str, method: str, path: str) -> None:
        self._address = urlsplit(door).netloc
        self._request = (method, path, b"x" * 100 if method == "POST" else None)
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(kept,)) for kept in (False, True)]
        self.answered = 0
        self.lost: list[str] = []

    def _ask(self, kept: bool) -> None:
        connection = http.client.HTTPConnection(self._address, timeout=60)
        while not self._end.wait(0.05):
            begun = time.time()
            try:
                connection.request(*self._request)
                response = connection.getresponse()
                response.read()
                if response.status >= 400:
                    self.lost.append(f"{begun}: status {response.status}, kept: {kept}")
                self.answered += 1
            except (OSError, http.client.HTTPException) as error:
                self.lost.append(f"{begun}: {error!r}, kept: {kept}")
                connection.close()
            if not kept:
                connection.close()
        connection.close()

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()


def example(name: str) -> dict[str, Any]:
    """An example in the place of the one application of these tests' host: what `site_apps` has for it."""
    place = REPOSITORY / "examples" / name
    ((_, declared),) = yaml.safe_load((place / "apps.yml").read_text(encoding="utf-8"))["site_apps"].items()
    # these programs are releases of that application in turn; how long they take to start is not asked here
    return {"site_apps": {"testapp": {**declared, "source": str(place), "start_timeout": PATIENCE}}}


@contextlib.contextmanager
def asking(fleet: Fleet, *requests: tuple[str, str]) -> Iterator[list[Asking]]:
    """Ask the host's front door while a block runs, a second before and after it, too."""
    with contextlib.ExitStack() as clients:
        found = [clients.enter_context(Asking(fleet.doors["app1"], *request)) for request in requests]
        time.sleep(1)
        yield found
        time.sleep(1)
