"""Tables and charts of what was measured.

PYTHONPATH=tests python benchmarks/report.py     # writes docs/performance.md and the charts again from docs/performance/*.json

A part's result is one JSON file. `figures` have a median, low and high of their rounds; `ratios` are of rounds that ran
next to each other; `errors` name subjects that have no figure. A ratio, or a figure that is judged by itself, may have
`wanted`: the median is to be at least that, or, if `better` is "less", at most.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from charts import by_case, chart, number, quantity

DOCS = Path(__file__).resolve().parents[1] / "docs"
PLACE = re.compile(r"(<!-- (\w+): written by make bench -->\n).*?(<!-- end -->)", re.DOTALL)
NO_RUN = "No run yet: `make bench` writes here what it measured."
HEADINGS = ["case", "figure", "measured", "against", "ratio", "spread", "wanted", "reached"]


def read_results(directory: Path, parts: Sequence[str]) -> list[dict[str, Any]]:
    """Read the results of those parts that have one."""
    files = [directory / f"{part}.json" for part in parts]
    return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.exists()]


def reached(judged: dict[str, Any]) -> bool | None:
    """Say whether a ratio or figure is what was wanted; None where nothing was."""
    wanted = judged.get("wanted")
    if wanted is None:
        return None
    return bool(judged["median"] <= wanted if judged["better"] == "less" else judged["median"] >= wanted)


def rows(result: dict[str, Any]) -> list[list[str]]:
    """Return, for each case and figure, a row for each ratio, or one with all subjects where there is none."""
    found = []
    for (case, figure), entries in by_case(result).items():
        measured = {each["subject"]: f"{each['subject']} {quantity(each['median'], each['unit'])}" for each in entries}
        ratios = [ratio for ratio in result["ratios"] if (ratio["case"], ratio["figure"]) == (case, figure)]
        for ratio in ratios:
            times = f"{number(ratio['median'])} ×"  # noqa: RUF001 -- the sign is meant
            found.append([case, figure, measured[ratio["of"]], measured[ratio["to"]], times, *judgement(ratio)])
        alone = [each for each in entries if "wanted" in each] or ([] if ratios else entries[:1])
        for each in alone:
            others = [text for subject, text in measured.items() if subject != each["subject"] and not ratios]
            row = [case, figure, measured[each["subject"]], ", ".join(others), ""]
            found.append([*row, *judgement(each, each["unit"])])
    return found


def judgement(judged: dict[str, Any], unit: str = "") -> list[str]:
    """Return the cells for the spread of a ratio or figure, what was wanted, and whether it was reached."""
    spread = f"{number(judged['low'])} to {number(judged['high'])}" if judged["low"] != judged["high"] else ""
    if (good := reached(judged)) is None:
        return [spread, "", ""]
    sign = "≤" if judged["better"] == "less" else "≥"
    return [spread, f"{sign} {judged['wanted']:,} {unit.removeprefix('1')}".rstrip(), "yes" if good else "NO"]


def error_lines(result: dict[str, Any]) -> list[str]:
    return [f"No figure for {each['subject']} in {each['case']}: {each['text']}" for each in result["errors"]]


def terminal_table(results: Sequence[dict[str, Any]]) -> str:
    """Return one table of all parts, what has no figure, and how many wanted ones were missed."""
    parts = [(result, rows(result)) for result in results]
    widths = [
        max(map(len, column)) for column in zip(HEADINGS, *(row for _, found in parts for row in found), strict=True)
    ]

    def aligned(cells: Sequence[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()

    lines = [aligned(HEADINGS)]
    for result, found in parts:
        lines += ["", f"-- {result['part']}", *map(aligned, found), *error_lines(result)]
    verdicts = [row[-1] for _, found in parts for row in found if row[-1]]
    if missed := verdicts.count("NO"):
        lines += ["", f"NOT REACHED: {missed} of the {len(verdicts)} that have a wanted figure."]
    return "\n".join(lines) + "\n"


def markdown_table(results: Sequence[dict[str, Any]]) -> str:
    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    lines = [line(HEADINGS), line(["---"] * len(HEADINGS))]
    for result in results:
        lines.append(line([f"**{result['part']}**", *[""] * (len(HEADINGS) - 1)]))
        lines += [line([*row[:-1], "**NO**" if row[-1] == "NO" else row[-1]]) for row in rows(result)]
    return "\n".join(lines) + "\n"


def section(result: dict[str, Any]) -> str:
    """Return what the page says of a part: how it was measured, its chart, what has no figure, its notes."""
    part, machine = result["part"], result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    blocks = [
        f"{result['method']} {result['date']}, {machine['cpus']} CPUs ({machine['cpu']}), {machine['memory_gb']} GB, "
        f"Linux {machine['kernel']}; {versions}. [Every round](performance/{part}.json)."
    ]
    if chart(result):
        blocks.append(f"![{part}: the median of each subject, its lowest and highest round](performance/{part}.svg)")
    if sentences := [*error_lines(result), *result["notes"]]:
        blocks.append("\n".join(f"- {sentence}" for sentence in sentences))
    return "\n\n".join(blocks) + "\n"


def fill(page: str, results: Sequence[dict[str, Any]]) -> str:
    """Write results between the page's markers: `table` has all of them, others that of the part they are named for."""
    texts = {result["part"]: section(result) for result in results}
    if results:
        texts["table"] = markdown_table(results)
    return PLACE.sub(lambda place: f"{place[1]}\n{texts.get(place[2], NO_RUN + chr(10))}\n{place[3]}", page)


def publish(docs: Path = DOCS) -> None:
    """Write the charts and the page from the JSON files in docs/performance."""
    page = docs / "performance.md"
    text = page.read_text(encoding="utf-8")
    results = read_results(docs / "performance", [place[1] for place in PLACE.findall(text)])
    for result in results:
        if drawn := chart(result):
            (docs / "performance" / f"{result['part']}.svg").write_text(drawn, encoding="utf-8")
    page.write_text(fill(text, results), encoding="utf-8")


if __name__ == "__main__":
    publish()
