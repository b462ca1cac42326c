"""Bodies of requests: how large one may be that is held in memory, and how slowly one may come.

A proxy that stores bodies until they are complete has no limit for the whole time that one takes, only for the time
between two reads (nginx, HAProxy): a byte now and then keeps it for days. So nginx passes them on as they come, and
here is where they are measured.
"""

from dataclasses import dataclass

MEGABYTE = 1024 * 1024
# Seconds over which the rate of a body is taken, and how often it is looked at meanwhile.
WINDOW = 20.0
LOOKS = 4


@dataclass(frozen=True)
class Limits:
    """`most`: bytes of a body that the application does not stream; `rate`: bytes per second of any. 0: no limit."""

    most: int = MEGABYTE
    rate: int = 1000

    @property
    def share(self) -> int:
        """Bytes that the bodies of one client may have in memory while they come: of 16 MB, or four of the largest."""
        return max(16 * MEGABYTE, 4 * self.most)


class Body:
    """A body that is on its way.

    `memory` is how much of it may be held in memory, on account of `client`: 0 of one that the application streams.
    """

    __slots__ = ("_seen", "_since", "client", "memory", "received")

    def __init__(self, client: str, memory: int, now: float) -> None:
        self.client = client
        self.memory = memory
        self.received = 0
        self.forgive(now)

    def forgive(self, now: float) -> None:
        """Begin to take the rate from now on: what was slow until now was not the client."""
        self._seen, self._since = self.received, now

    def is_slow(self, rate: int, now: float) -> bool:
        """Tell whether less than `rate` came per second, once `WINDOW` has passed; it begins again then."""
        passed = now - self._since
        if passed < WINDOW:
            return False
        slow = self.received - self._seen < rate * passed
        self.forgive(now)
        return slow


def answerer(delegate: object) -> object:
    """Return the end of the row of delegates that routing made: it knows the handler."""
    while (following := getattr(delegate, "delegate", None)) is not None:
        delegate = following
    return delegate


def streams(delegate: object) -> bool:
    """Tell whether what routing found takes a body as it comes; what is none of Tornado's handlers is taken to do so."""
    return bool(getattr(answerer(delegate), "stream_request_body", True))


def declared(length: str) -> int | None:
    """Return what a ``Content-Length`` declares; None if it declares nothing, or what the core refuses."""
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else None
