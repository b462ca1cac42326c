"""The processes of every host as one table."""

from collections.abc import Mapping
from typing import Any

HEADINGS = (
    "host",
    "port",
    "state",
    "release",
    "pid",
    "uptime",
    "connections",
    "requests",
    "open files / limit",
)


def duration(seconds: float | None) -> str:
    """A time in the two largest of its units."""
    if seconds is None:
        return "-"
    rest, parts = int(seconds), []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, length)
        if count or parts or unit == "s":
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def row(host: str, process: Mapping[str, Any]) -> tuple[str, ...]:
    files = f"{process['open_files']} / {process['open_files_limit']}" if "open_files" in process else "-"
    return (
        host,
        *(str(process.get(name, "-")) for name in ("port", "state", "release", "pid")),
        duration(process.get("uptime_seconds")),
        *(str(process.get(name, "-")) for name in ("connections", "requests")),
        files,
    )


def process_table(hosts: list[str], hostvars: Mapping[str, Any]) -> str:
    """A line for each process of `hosts`, from what tornado_app_info registered."""
    rows = [row(host, process) for host in hosts for process in hostvars[host]["__tornado_app_info"]["processes"]]
    widths = [max(len(line[column]) for line in [HEADINGS, *rows]) for column in range(len(HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in [HEADINGS, *rows]
    )


class FilterModule:
    def filters(self) -> dict[str, Any]:
        return {"process_table": process_table}
