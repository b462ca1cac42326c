"""What a process has answered, in plain numbers.

Prometheus objects cost a lock and two calls for every observation. Here a request costs two additions and
a bisection; `eyewall.metrics` reads the numbers when somebody asks.
"""

from bisect import bisect_left

# Seconds. Tornado answers in well under a millisecond; 30 is the drain time.
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)

# Tornado's RequestHandler.SUPPORTED_METHODS. Any other is counted as OTHER: a client must not be able to add
# series to the metrics.
METHODS = frozenset(("GET", "HEAD", "POST", "DELETE", "PATCH", "PUT", "OPTIONS"))

NO_ANSWER = 0


class Counters:
    """Counts of requests, of the seconds that they took, and of what kept connections from being accepted."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.accept_pauses = 0  # see eyewall.acceptor
        self.malformed = 0  # heads that are no request's
        self.requests: dict[tuple[str, int], int] = {}
        self.durations = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    @property
    def total(self) -> int:
        """Requests that have ended."""
        return sum(self.requests.values())

    def count(self, method: str, code: int, seconds: float) -> None:
        """Count a request that has ended with status `code`, or with `NO_ANSWER`."""
        try:
            self.requests[method, code] += 1
        except KeyError:
            key = (method if method in METHODS else "OTHER", code)
            self.requests[key] = self.requests.get(key, 0) + 1
        self.durations[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds
