"""The process's numbers, as Prometheus wants them, read when it asks."""

from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from eyewall.admin import Status
from eyewall.counters import BUCKETS, NO_ANSWER
from eyewall.watchdog import Watchdog


class ProcessMetrics(Collector):
    """Metrics named ``eyewall_…``; `register` adds them to prometheus_client's default registry.

    That one has the process, platform and garbage collector's metrics already, and the application's.
    """

    def __init__(self, status: Status, watchdog: Watchdog) -> None:
        self._status = status
        self._watchdog = watchdog

    def register(self) -> None:
        REGISTRY.register(self)

    def collect(self) -> Iterator[Metric]:
        status, servers, counters = self._status, self._status.servers, self._status.counters
        yield InfoMetricFamily(
            "eyewall",
            "What this process runs.",
            {"release": status.release, "generation": status.generation, "port": str(status.port)},
        )
        requests = CounterMetricFamily(
            "eyewall_requests",
            "Requests that have ended, by method and status; code none: the client left, or its body made no sense.",
            labels=["method", "code"],
        )
        for (method, code), number in sorted(counters.requests.items()):
            requests.add_metric([method, "none" if code == NO_ANSWER else str(code)], number)
        yield requests
        yield CounterMetricFamily(
            "eyewall_malformed_heads",
            "What is no request's head, or too long for one: answered with 400, or not at all. In no other number.",
            value=counters.malformed,
        )
        yield CounterMetricFamily(
            "eyewall_accept_pauses",
            "How often no more connections were accepted, because open files were short.",
            value=counters.accept_pauses,
        )
        cumulative = list(accumulate(counters.durations))
        yield HistogramMetricFamily(
            "eyewall_request_duration_seconds",
            "From the request's headers read to the answer written.",
            buckets=[
                (bound, float(number)) for bound, number in zip([*map(str, BUCKETS), "+Inf"], cumulative, strict=True)
            ],
            sum_value=counters.seconds,
        )
        for name, value, text in (
            ("requests_in_flight", counters.in_flight, "Requests being answered."),
            ("connections", servers.connections, "Open connections, WebSockets included."),
            ("websockets", servers.websockets, "Open WebSockets."),
            ("loop_lag_seconds", self._watchdog.lag, "By how much the loop's last wake-up was late."),
            ("ready", float(status.state == "ready"), "1 if this process wants requests."),
        ):
            yield GaugeMetricFamily(f"eyewall_{name}", text, value=value)
