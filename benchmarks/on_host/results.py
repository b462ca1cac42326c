"""What a part of the benchmarks found, as the one JSON document that it prints.

For the host: Debian's Python and nothing else. docs/performance.md is made from these documents.
"""

import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

Number = int | float


def machine() -> dict[str, Number | str]:
    """What the figures depend on: CPUs that this process may use, their model, GB of memory, kernel."""
    model = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB$", Path("/proc/meminfo").read_text(encoding="utf-8"), re.MULTILINE)
    return {
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": model[1] if model else "",
        "memory_gb": round(int(memory[1]) / 1024**2) if memory else 0,
        "kernel": os.uname().release,
    }


def version(*command: str) -> str:
    """Return the first version number that `command` prints; wrk prints its own and ends with status 1."""
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    found = re.search(r"\d+(?:\.\d+)+", ran.stdout + ran.stderr)
    if found is None:
        raise ValueError(f"{' '.join(command)} printed no version")
    return found[0]


def summary(values: Sequence[Number]) -> dict[str, Any]:
    """Return the median, the smallest and the largest of `values`, and all of them; floats to five digits."""
    chosen: list[Number] = [statistics.median(values), min(values), max(values), *values]
    median, low, high, *rounded = (value if isinstance(value, int) else float(f"{value:.5g}") for value in chosen)
    return {"median": median, "low": low, "high": high, "values": rounded}


@dataclass
class Results:
    """One part. `method` says in a sentence or two how it measures; `versions` of what was measured, by name."""

    part: str
    method: str
    versions: dict[str, str] = field(default_factory=dict)
    figures: list[dict[str, Any]] = field(default_factory=list)
    ratios: list[dict[str, Any]] = field(default_factory=list)
    errors: list[dict[str, str]] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add_figure(self, case: str, subject: str, figure: str, unit: str, values: Sequence[Number]) -> None:
        """Add what was measured of `subject`: one value per round, in the order of rounds."""
        self.figures.append({"case": case, "subject": subject, "figure": figure, "unit": unit} | summary(values))

    def add_ratio(
        self, case: str, of: str, to: str, figure: str, *, wanted: float | None = None, better: str = "more"
    ) -> None:
        """Add the ratios of two subjects' `figure`, round by round; none where one of them has no figure.

        `wanted` is the ratio to reach ("more" is better) or not to exceed ("less" is better).
        """
        values = {
            entry["subject"]: entry["values"]
            for entry in self.figures
            if (entry["case"], entry["figure"]) == (case, figure)
        }
        if of in values and to in values:
            ratios = summary([one / other for one, other in zip(values[of], values[to], strict=True)])
            del ratios["values"]
            self.ratios.append(
                {"case": case, "of": of, "to": to, "figure": figure} | ratios | {"wanted": wanted, "better": better}
            )

    def add_error(self, case: str, subject: str, text: str) -> None:
        """Say why `subject` has no figures; those that were added, before or after, are left out."""
        self.errors.append({"case": case, "subject": subject, "text": text})

    def add_curve(self, title: str, x: str, y: str, lines: Mapping[str, Sequence[tuple[Number, Number]]]) -> None:
        """Add a curve; `x` and `y` name the axes, `lines` has the points of each line by its name."""
        self.curves.append(
            {"title": title, "x": x, "y": y, "lines": {name: list(line) for name, line in lines.items()}}
        )

    def document(self) -> dict[str, Any]:
        """Return all of it. A subject with an error has no figure, and no ratio has it."""
        failed = {(error["case"], error["subject"]) for error in self.errors}
        return {
            "part": self.part,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(),
            "versions": self.versions,
            "method": self.method,
            "figures": [entry for entry in self.figures if (entry["case"], entry["subject"]) not in failed],
            "ratios": [
                entry
                for entry in self.ratios
                if not {(entry["case"], entry["of"]), (entry["case"], entry["to"])} & failed
            ],
            "errors": self.errors,
            "curves": self.curves,
            "notes": self.notes,
        }

    def write(self, stream: TextIO = sys.stdout) -> None:
        """Print the document."""
        json.dump(self.document(), stream, indent=1)
        stream.write("\n")
