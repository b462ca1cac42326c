"""What a test does all the while that something else happens."""

import threading
from typing import Self


class Background(threading.Thread):
    """A thread that runs as long as a `with` block does: its `run` returns once `ending` is set."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ending = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ending.set()
        self.join()
