"""The picture of a report: answers per second by release, what was lost, and what happened meanwhile."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # which imports this module
    from proof.report import Report, Request

WIDTH = 800
LEFT, RIGHT = 52, 784  # of the plot, in pixels
PLOT = 260
MARKS_AT = 74  # the first line of labels
LINE = 18
CHARACTER = 6.9  # pixels, in the widest of the fonts that a browser may take
MOST_BINS = 240
BIN_SECONDS = (0.5, 1, 2, 5, 10, 30, 60, 300)
TICK_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600)
LEAST_LOST = 3  # pixels: one lost request in a thousand is to be seen
NAMELESS = "no release named"

STYLE = """
svg { --paper: #fff; --ink: #1f2328; --faint: #d0d7de; --mark: #57606a; --lost: #d1242f; --other: #9aa4ae }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #e6edf3; --faint: #30363d; --mark: #9198a1; --lost: #ff5a52; --other: #6e7681 }
}
text { fill: var(--ink); font: 13px system-ui, sans-serif; stroke: var(--paper); stroke-width: 3px; paint-order: stroke }
.title { font-size: 17px; font-weight: 600 }
.lost { fill: var(--lost); font-weight: 600 }
.middle { text-anchor: middle }
.end { text-anchor: end }
.grid { stroke: var(--faint) }
.mark { stroke: var(--mark) }
.until { stroke-dasharray: 2 3 }
.band { fill: var(--mark); opacity: .16 }
""".strip()


def timeline(report: "Report") -> str:
    """Draw an SVG that reads in light and dark mode, without scripts."""
    return _Timeline(report).draw()


def colours(releases: Sequence[str]) -> dict[str, str]:
    """One colour for each release: neighbours far apart on the wheel, none of them red, which is for losses."""
    # 137.5 degrees, the golden angle, keep any number of steps apart; pink, red and orange are left out.
    return {
        release: f"hsl({45 + (170 + number * 137.5) % 255:.0f} 55% 58%)" if release else "var(--other)"
        for number, release in enumerate(releases)
    }


class _Timeline:
    def __init__(self, report: "Report") -> None:
        self.report = report
        self.first = min((request.start for request in report.requests), default=0.0)
        self.seconds = max((request.end for request in report.requests), default=1.0) - self.first or 1.0
        self.width = next((s for s in BIN_SECONDS if self.seconds / s <= MOST_BINS), BIN_SECONDS[-1])
        self.bins = math.ceil(self.seconds / self.width)
        answered = [request for request in report.requests if request.fate != "lost"]
        self.answers = {
            release: self.binned([request for request in answered if request.release == release])
            for release in report.releases()
        }
        self.lost = self.binned(report.lost)
        self.colours = colours(list(self.answers))
        totals = [sum(column) for column in zip(*self.answers.values(), self.lost, strict=True)]
        self.step, self.most = scale(max([*totals, 1]) / self.width)
        self.flags = placed([(self.x(mark.start), mark.label) for mark in report.marks])
        self.top = MARKS_AT + LINE * len({row for row, _ in self.flags}) - LINE / 2

    def binned(self, requests: Sequence["Request"]) -> list[int]:
        """Count by the time of the answer."""
        counts = [0] * self.bins
        for request in requests:
            counts[min(int((request.end - self.first) / self.width), self.bins - 1)] += 1
        return counts

    def x(self, time: float) -> float:
        share = (time - self.first) / self.seconds
        return LEFT + (RIGHT - LEFT) * min(max(share, 0.0), 1.0)

    def edge(self, number: int) -> float:
        """Where a slice of time begins."""
        return self.x(self.first + number * self.width)

    def y(self, count: float) -> float:
        """How high a count in one slice stands."""
        return self.top + PLOT * (1 - count / self.width / self.most)

    def draw(self) -> str:
        legend = self.legend()
        height = self.top + PLOT + 44 + LINE * len(legend)
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
            f'aria-label="{escape(self.report.verdict())}">',
            f"<style>{STYLE}</style>",
            f'<rect width="{WIDTH}" height="{height:.0f}" style="fill: var(--paper)"/>',
            *self.headline(),
            *self.bands(),
            *self.axes(),
            *self.areas(),
            *self.marks(),
            *(part for line in legend for part in line),
        ]
        return "\n".join([*parts, "</svg>\n"])

    def headline(self) -> list[str]:
        doors = ", ".join(row.name for row in self.report.doors())
        style = ' class="lost"' if self.report.lost else ' style="font-weight: 600"'
        return [
            '<text x="16" y="28" class="title">Answers per second, by the release that gave them</text>',
            f'<text x="16" y="50"><tspan{style}>{self.report.verdict()}</tspan>'
            f" in {length(self.seconds)}, through {escape(doors)}</text>",
        ]

    def bands(self) -> list[str]:
        return [
            f'<rect class="band" x="{self.x(mark.start):.1f}" y="{self.top:.1f}" '
            f'width="{self.x(mark.end) - self.x(mark.start):.1f}" height="{PLOT}"/>'
            for mark in self.report.marks
            if mark.end > mark.start
        ]

    def axes(self) -> list[str]:
        parts = []
        for value in range(0, self.most + 1, self.step):
            y = self.y(value * self.width)
            parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{RIGHT}"/>')
            parts.append(f'<text class="end" x="{LEFT - 8}" y="{y + 4:.1f}">{value:,}</text>')
        every = next((tick for tick in TICK_SECONDS if self.seconds / tick <= 10), TICK_SECONDS[-1])
        for tick in range(0, int(self.seconds) + 1, every):
            x, y = self.x(self.first + tick), self.top + PLOT
            parts.append(f'<path class="grid" d="M{x:.1f} {y:.1f}v5"/>')
            parts.append(f'<text class="middle" x="{x:.1f}" y="{y + 20:.1f}">{tick // 60}:{tick % 60:02}</text>')
        return parts

    def areas(self) -> list[str]:
        """Stack the releases in the order of their first answers, and what was lost on top of them."""
        below = [0] * self.bins
        parts = []
        for release, counts in self.answers.items():
            above = [low + count for low, count in zip(below, counts, strict=True)]
            title = f"{escape(release or NAMELESS)}: {sum(counts):,} answers"
            lows, highs = [self.y(low) for low in below], [self.y(high) for high in above]
            parts.append(
                f'<path d="{self.outline(lows, highs)}" style="fill: {self.colours[release]}"><title>{title}</title></path>'
            )
            below = above
        for number, count in enumerate(self.lost):
            if count:
                x, low = self.edge(number), self.y(below[number])
                high = min(self.y(below[number] + count), low - LEAST_LOST)
                wide = max(self.edge(number + 1) - x, LEAST_LOST)
                parts.append(
                    f'<rect class="lost" x="{x:.1f}" y="{high:.1f}" width="{wide:.1f}" height="{low - high:.1f}">'
                    f"<title>{count:,} lost</title></rect>"
                )
        return parts

    def outline(self, lows: Sequence[float], highs: Sequence[float]) -> str:
        """Go along the tops of the slices that are not empty, and back along their bottoms."""
        there = [number for number in range(self.bins) if highs[number] < lows[number]]
        first, last = there[0], there[-1]
        path = f"M{self.edge(first):.2f} {lows[first]:.2f}"
        for number in range(first, last + 1):
            path += f"V{highs[number]:.2f}H{self.edge(number + 1):.2f}"
        for number in range(last, first - 1, -1):
            path += f"V{lows[number]:.2f}H{self.edge(number):.2f}"
        return path + "Z"

    def marks(self) -> list[str]:
        """Draw lines first, then labels, and numbers of losses: text stands on everything else."""
        lines, texts = [], []
        bottom = self.top + PLOT
        for mark, (row, x) in zip(self.report.marks, self.flags, strict=True):
            y, start = MARKS_AT + row * LINE, self.x(mark.start)
            lines.append(f'<path class="mark" d="M{start:.1f} {y - 10}V{bottom:.1f}"/>')
            if mark.end > mark.start:
                lines.append(f'<path class="mark until" d="M{self.x(mark.end):.1f} {self.top:.1f}V{bottom:.1f}"/>')
            texts.append(f'<text x="{x + 4:.1f}" y="{y}">{escape(mark.label)}</text>')
        for middle, count in self.bursts():
            texts.append(f'<text class="lost middle" x="{middle:.1f}" y="{self.top + 14:.1f}">{count:,} lost</text>')
        return lines + texts

    def bursts(self) -> list[tuple[float, int]]:
        """Losses that are too close together for a number each, as one: where, and how many."""
        found: list[tuple[float, float, int]] = []
        for number, count in enumerate(self.lost):
            if not count:
                continue
            left, right = self.edge(number), self.edge(number + 1)
            if found and left - found[-1][1] < 10 * CHARACTER:
                first, _, before = found.pop()
                found.append((first, right, before + count))
            else:
                found.append((left, right, count))
        return [((left + right) / 2, count) for left, right, count in found]

    def legend(self) -> list[list[str]]:
        """Return lines of entries, as many to a line as fit."""
        entries = [
            (f"{release or NAMELESS} ({sum(counts):,})", f"fill: {self.colours[release]}")
            for release, counts in self.answers.items()
        ]
        entries.append((f"lost ({sum(self.lost):,})", "fill: var(--lost)"))
        lines: list[list[str]] = [[]]
        x = float(LEFT)
        for text, style in entries:
            wide = 20 + CHARACTER * len(text) + 14
            if lines[-1] and x + wide > RIGHT:
                lines.append([])
                x = LEFT
            y = self.top + PLOT + 34 + LINE * len(lines)
            lines[-1] += [
                f'<rect x="{x:.1f}" y="{y - 11:.1f}" width="13" height="13" rx="2" style="{style}"/>',
                f'<text x="{x + 19:.1f}" y="{y:.1f}">{escape(text)}</text>',
            ]
            x += wide
        return lines


def placed(labels: Sequence[tuple[float, str]]) -> list[tuple[int, float]]:
    """Give each label, from left to right, the first row where it hides no other, and its x within the picture."""
    rows: list[float] = []
    found = []
    for at, label in labels:
        wide = 10 + CHARACTER * len(label)
        x = min(at, WIDTH - wide)
        row = next((number for number, right in enumerate(rows) if right <= x), len(rows))
        rows[row : row + 1] = [x + wide]
        found.append((row, x))
    return found


def scale(most: float) -> tuple[int, int]:
    """Return a round step and the end of an axis that reaches `most` in up to five of them."""
    power = 10 ** max(0, math.floor(math.log10(most / 5)))
    step = next(step for step in (1 * power, 2 * power, 5 * power, 10 * power) if step * 5 >= most)
    return step, step * math.ceil(most / step)


def length(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
