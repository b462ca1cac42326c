"""Traffic of every kind through every front door while something changes, and a report of what became of each request.

In a test::

    with Traffic({"balancer": "http://127.0.0.1:8080"}) as traffic:
        with traffic.during("deploy"):
            ...
    assert traffic.report.lost == []

On the command line: ``python -m proof --help``. The traffic is made by a process of its own (`proof.client`).
"""

from proof.report import Mark, Report, Request
from proof.traffic import Traffic, loopback

__all__ = ["Mark", "Report", "Request", "Traffic", "loopback"]
