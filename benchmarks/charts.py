"""The picture of a part's result: bars for what was compared, lines for curves."""

import itertools
import textwrap
from collections.abc import Sequence
from html import escape
from typing import Any

from proof.timeline import CHARACTER, LINE, STYLE, WIDTH, colours, scale

OURS = "Eyewall"
MARGIN, COLUMN = 16, 372  # pixels; panels stand in two columns
FITS = int(COLUMN / CHARACTER)  # characters in a line of a panel
BAR, CAP = 10, 3  # pixels
AXIS, PLOT = 52, 180  # pixels
PANEL_STYLE = """
.head { font-weight: 600 }
.bar { fill: var(--other) }
.whisker { stroke: var(--ink) }
.line { fill: none; stroke-width: 2px }
""".rstrip()


def number(value: float) -> str:
    """Round to three digits, but a count, which is an int, to none: it is exact."""
    if isinstance(value, int):
        return f"{value:,}"
    rounded = float(f"{value:.3g}")
    whole, _, exponent = f"{rounded:e}".partition("e")
    return f"{rounded:,.{max(0, 2 - int(exponent))}f}" if float(whole) else "0"


def quantity(value: float, unit: str) -> str:
    """Write a number with its unit; that of `1/s` is `/s`."""
    return f"{number(value)} {unit.removeprefix('1')}".rstrip()


def by_case(result: dict[str, Any]) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Return the figures of all subjects by case and figure, in the order of the result."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for figure in result["figures"]:
        groups.setdefault((figure["case"], figure["figure"]), []).append(figure)
    return groups


def chart(result: dict[str, Any]) -> str:
    """Draw an SVG that reads in light and dark mode, without scripts; nothing where nothing is compared."""
    panels = [
        bars(f"{case}: {figure}", figures, [error["subject"] for error in result["errors"] if error["case"] == case])
        for (case, figure), figures in by_case(result).items()
        if len(figures) > 1
    ]
    panels += [curve(of) for of in result.get("curves", [])]
    if not panels:
        return ""
    parts, y = [], 0
    for row in (panels[first : first + 2] for first in range(0, len(panels), 2)):
        for x, (panel, _) in zip((MARGIN, WIDTH - MARGIN - COLUMN), row, strict=False):
            parts += [f'<g transform="translate({x} {y})">', *panel, "</g>"]
        y += max(height for _, height in row) + LINE
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" role="img" '
            f'aria-label="{escape(result["part"])}">',
            f"<style>{STYLE}{PANEL_STYLE}</style>",
            f'<rect width="{WIDTH}" height="{y}" style="fill: var(--paper)"/>',
            *parts,
            "</svg>\n",
        ]
    )


def bars(title: str, figures: Sequence[dict[str, Any]], without: Sequence[str]) -> tuple[list[str], int]:
    """Draw a bar for each subject, its smallest and largest round as a whisker; return the panel and its height."""
    parts, y = heading(title)
    most = max(figure["high"] for figure in figures) or 1
    for figure in figures:
        value = quantity(figure["median"], figure["unit"])
        text, y = line(y, figure["subject"], value)
        low, middle, high = (COLUMN * figure[name] / most for name in ("low", "median", "high"))
        ours = f' style="fill: {colours([OURS])[OURS]}"' if figure["subject"] == OURS else ""
        rounds = f"{number(figure['low'])} to {number(figure['high'])} in {len(figure['values'])} rounds"
        parts += [
            *text,
            f'<rect class="bar" y="{y + 6}" width="{middle:.1f}" height="{BAR}"{ours}><title>{rounds}</title></rect>',
        ]
        if low < high:
            across = y + 6 + BAR / 2
            parts.append(
                f'<path class="whisker" d="M{low:.1f} {across:.1f}H{high:.1f}'
                f'M{low:.1f} {across - CAP:.1f}v{2 * CAP}M{high:.1f} {across - CAP:.1f}v{2 * CAP}"/>'
            )
        y += 6 + BAR
    for subject in without:
        text, y = line(y, subject, "no figure", "lost")
        parts += text
    return parts, y


def heading(title: str) -> tuple[list[str], int]:
    """Write a panel's title, in as many lines as it takes; return them and where the last one stands."""
    lines = textwrap.wrap(title, FITS - 4)  # bold is wider
    texts = [f'<text class="head" y="{(row + 1) * LINE + 8}">{escape(text)}</text>' for row, text in enumerate(lines)]
    return texts, len(lines) * LINE + 8


def line(y: int, left: str, right: str, kind: str = "") -> tuple[list[str], int]:
    """Write a name and its value, the name in as many lines as it takes; return them and where the last one stands."""
    names = textwrap.wrap(left, FITS - len(right) - 2)
    texts = [f'<text y="{y + (row + 1) * LINE + 4}">{escape(name)}</text>' for row, name in enumerate(names)]
    y += len(names) * LINE + 4
    return [*texts, f'<text class="end {kind}" x="{COLUMN}" y="{y}">{escape(right)}</text>'], y


def curve(of: dict[str, Any]) -> tuple[list[str], int]:
    """Draw lines over a common axis, each point marked; return the panel and its height."""
    parts, top = heading(of["title"])
    text, top = line(top, of["y"], "")
    parts += text
    top += 12
    points = [point for values in of["lines"].values() for point in values]
    step, most = scale(max([y for _, y in points] + [1]))
    right = max(x for x, _ in points)

    def at(x: float, y: float) -> tuple[float, float]:
        return AXIS + (COLUMN - AXIS - 12) * x / right, top + PLOT * (1 - y / most)

    for value in range(0, most + 1, step):
        _, y = at(0, value)
        parts.append(f'<path class="grid" d="M{AXIS} {y:.1f}H{COLUMN}"/>')
        parts.append(f'<text class="end" x="{AXIS - 8}" y="{y + 4:.1f}">{value:,}</text>')
    free = 0.0
    for value in sorted({x for x, _ in points}):
        x, y = at(value, 0)
        parts.append(f'<path class="grid" d="M{x:.1f} {y:.1f}v5"/>')
        half = CHARACTER * len(number(value)) / 2
        if x - half > free:  # else it would stand on the one before
            parts.append(f'<text class="middle" x="{x:.1f}" y="{y + 20:.1f}">{number(value)}</text>')
            free = x + half
    parts.append(f'<text class="end" x="{COLUMN}" y="{top + PLOT + 38}">{escape(of["x"])}</text>')
    y = top + PLOT + 40
    for (name, colour), values in zip(colours(list(of["lines"])).items(), of["lines"].values(), strict=True):
        places = [at(x, y) for x, y in sorted(values)]
        corners = itertools.chain.from_iterable(places)
        path = "M" + " ".join(f"{corner:.1f}" for corner in corners)
        parts.append(f'<path class="line" d="{path}" style="stroke: {colour}"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" style="fill: {colour}"/>' for x, y in places]
        y += LINE
        parts.append(f'<rect x="{AXIS}" y="{y - 11}" width="13" height="13" rx="2" style="fill: {colour}"/>')
        parts.append(f'<text x="{AXIS + 19}" y="{y}">{escape(name)}</text>')
    return parts, y
