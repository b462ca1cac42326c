"""What became of each request: records, table, JSON."""

import csv
import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from proof.timeline import timeline

KINDS = (
    *("GET kept", "GET new", "POST kept", "POST new", "GET slow", "POST slow", "upload", "download", "page", "asset"),
    *("WebSocket message", "WebSocket"),
)
# Of a door with TLS, beside the others.
HTTP2_KINDS = ("GET HTTP/2", "POST HTTP/2", "slow HTTP/2", "upload HTTP/2")


@dataclass(frozen=True, slots=True)
class Request:
    """One request; `start` is in seconds since the epoch; release, host and pid are of who answered, as far as known.

    `fate` is answered, resent, told or lost: `proof.client` says what each means.
    """

    kind: str
    door: str
    start: float
    seconds: float
    fate: str
    detail: str = ""
    release: str = ""
    host: str = ""
    pid: str = ""

    @property
    def end(self) -> float:
        return self.start + self.seconds


FIELDS = [field.name for field in fields(Request)]


def read_requests(path: Path) -> list[Request]:
    """Read the CSV file of `proof.client`, which may still be writing its last line."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    rows = csv.reader(text[: text.rfind("\n") + 1].splitlines()[1:])
    return [Request(row[0], row[1], float(row[2]), float(row[3]), *row[4:]) for row in rows]


@dataclass(frozen=True)
class Mark:
    """Something that happened meanwhile, from `start` to `end`, in seconds since the epoch."""

    label: str
    start: float
    end: float


@dataclass(frozen=True)
class Row:
    """A line of the table; times in seconds, of the requests that were not lost."""

    name: str
    requests: int
    lost: int
    resent: int
    told: int
    p50: float | None
    p99: float | None
    longest: float | None

    @classmethod
    def of(cls, name: str, requests: Sequence[Request]) -> "Row":
        fates = Counter(request.fate for request in requests)
        times = sorted(request.seconds for request in requests if request.fate != "lost")
        return cls(
            name,
            len(requests),
            *(fates[fate] for fate in ("lost", "resent", "told")),
            *(percentile(times, share) for share in (0.5, 0.99, 1.0)),
        )

    def cells(self) -> list[str]:
        counts = [f"{count:,}" for count in (self.requests, self.lost, self.resent, self.told)]
        times = ["-" if time is None else f"{time * 1000:,.0f}" for time in (self.p50, self.p99, self.longest)]
        return [self.name, *counts, *times]


HEADINGS = ["", "requests", "lost", "resent", "told", "p50 ms", "p99 ms", "max ms"]


def percentile(times: Sequence[float], share: float) -> float | None:
    """Return the smallest of the sorted times that this share of them does not exceed; None of nothing."""
    return times[max(0, math.ceil(share * len(times)) - 1)] if times else None


class Report:
    """All requests, and what happened meanwhile."""

    def __init__(self, requests: list[Request], marks: Iterable[Mark] = ()) -> None:
        self.requests = requests
        self.marks = sorted(marks, key=lambda mark: mark.start)

    @property
    def lost(self) -> list[Request]:
        """The lost ones, in the order in which they were lost."""
        return sorted((request for request in self.requests if request.fate == "lost"), key=lambda request: request.end)

    def count(self, kind: str | None = None, fate: str | None = None, door: str | None = None) -> int:
        """Count the requests of a kind, a fate, a door, or of any."""
        return len(self.only(kind=kind, fate=fate, door=door).requests)

    def only(self, kind: str | None = None, fate: str | None = None, door: str | None = None) -> "Report":
        """Return the report of some of the requests."""
        chosen = [
            request
            for request in self.requests
            if kind in (None, request.kind) and fate in (None, request.fate) and door in (None, request.door)
        ]
        return Report(chosen, self.marks)

    def releases(self) -> Counter[str]:
        """Answers by release, in the order of their first ones; "" is what came from no application."""
        found: Counter[str] = Counter()
        for request in sorted(self.requests, key=lambda request: request.end):
            if request.fate != "lost":
                found[request.release] += 1
        return found

    def rows(self) -> list[Row]:
        """One for each kind that there was, and one for all."""
        kinds = [kind for kind in (*KINDS, *HTTP2_KINDS) if self.count(kind)]
        return [*(Row.of(kind, self.only(kind).requests) for kind in kinds), Row.of("all", self.requests)]

    def doors(self) -> list[Row]:
        """One for each front door."""
        names = dict.fromkeys(request.door for request in self.requests)
        return [Row.of(name, self.only(door=name).requests) for name in names]

    def verdict(self) -> str:
        """One sentence."""
        return f"{len(self.lost):,} of {len(self.requests):,} requests lost"

    def table(self) -> str:
        """Both tables as text, and each loss of the first ten."""
        lines = [[HEADINGS, *(row.cells() for row in rows)] for rows in (self.rows(), self.doors())]
        lines[0][0], lines[1][0] = (["kind", *HEADINGS[1:]], ["front door", *HEADINGS[1:]])
        widths = [max(len(line[column]) for part in lines for line in part) for column in range(len(HEADINGS))]
        parts = ["\n".join(_aligned(line, widths) for line in part) for part in lines]
        first = min((request.start for request in self.requests), default=0.0)
        losses = [
            f"lost {loss.end - first:.2f} s after the start: {loss.kind} through {loss.door}"
            f"{f' from {loss.host}' * bool(loss.host)}, {loss.detail}"
            for loss in self.lost
        ]
        more = [f"and {len(losses) - 10} more"] if len(losses) > 10 else []
        return "\n\n".join([*parts, "\n".join([*losses[:10], *more, self.verdict()])]) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Everything but the requests that were not lost."""
        return {
            "start": min((request.start for request in self.requests), default=0.0),
            "end": max((request.end for request in self.requests), default=0.0),
            "kinds": [asdict(row) for row in self.rows()],
            "doors": [asdict(row) for row in self.doors()],
            "releases": dict(self.releases()),
            "marks": [asdict(mark) for mark in self.marks],
            "lost": [asdict(request) for request in self.lost],
        }

    def save(self, directory: Path) -> None:
        """Write report.txt, report.json, timeline.svg, and every request into requests.csv."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "report.txt").write_text(self.table(), encoding="utf-8")
        (directory / "report.json").write_text(json.dumps(self.as_dict(), indent=1) + "\n", encoding="utf-8")
        (directory / "timeline.svg").write_text(timeline(self), encoding="utf-8")
        with (directory / "requests.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(FIELDS)
            writer.writerows([getattr(request, name) for name in FIELDS] for request in self.requests)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    first = cells[0].ljust(widths[0])
    return "  ".join([first, *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))])
