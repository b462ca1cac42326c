"""`make bench` reports honestly: what was missed, what has no figure, what was not measured this time."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import bench
import charts
import pytest
import report
import results
from support import REPOSITORY

BENCHMARKS = REPOSITORY / "benchmarks"

LONG = "Ansistrano, with a hook that restarts all of them under supervisord"

# Stands in for Ansible: notes how it was called, and a part has the result that the test put into samples/.
STAND_IN = f"""#!{sys.executable}
import os, shutil, sys, time
from pathlib import Path

tree = Path(os.environ["TREE"])
with (tree / "calls").open("a") as calls:
    print(*sys.argv[1:], file=calls)
part = next((word.removeprefix("part=") for word in sys.argv if word.startswith("part=")), "")
if part:
    print("what the part said")
    if (tree / "samples" / "wait").exists():
        (tree / "waiting").touch()
        try:
            time.sleep(60)
        finally:
            (tree / "tidied").touch()
    shutil.copy(tree / "samples" / f"{{part}}.json", tree / ".build" / "benchmarks")
"""


def sample(part: str = "dynamic", rates: tuple[int, int] = (5400, 3300)) -> Any:
    """Two subjects, three rounds each, and a third one that has an error."""
    made = results.Results(part, "3 rounds of 4 s.", {"nginx": "1.22.1"})
    for subject, rate in zip(("Eyewall", "recipe"), rates, strict=True):
        made.add_figure("hello", subject, "requests per second", "1/s", [rate * share for share in (0.95, 1.0, 1.1)])
    made.add_ratio("hello", "Eyewall", "recipe", "requests per second", wanted=1.6)
    return made


def faulty(part: str = "dynamic") -> Any:
    made = sample(part)
    made.add_error("hello", LONG, "3 of 21,004 answers | were 502")
    return made


def texts(svg: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"))  # noqa: S314 -- our own


@pytest.mark.parametrize(
    ("value", "written"),
    [
        *((5432.1, "5,430"), (62_567.0, "62,600"), (54.35, "54.4"), (1.6249, "1.62"), (0.0834, "0.0834")),
        *((0.9996, "1.00"), (99.96, "100"), (0.0, "0"), (-2.345, "-2.35"), (49_873, "49,873"), (0, "0")),
    ],
)
def test_a_count_is_exact_and_anything_else_has_three_digits(value: float, written: str) -> None:
    assert charts.number(value) == written


def test_the_table_says_yes_and_no() -> None:
    made = sample()
    made.add_ratio("hello", "recipe", "Eyewall", "requests per second", wanted=0.5, better="less")
    made.add_ratio("hello", "recipe", "Eyewall", "requests per second")
    reached, missed, unasked = report.rows(made.document())
    ours, recipe = "Eyewall 5,400 /s", "recipe 3,300 /s"
    assert reached == ["hello", "requests per second", ours, recipe, "1.64 ×", "", "≥ 1.6", "yes"]  # noqa: RUF001
    assert missed[4:] == ["0.611 ×", "", "≤ 0.5", "NO"]  # noqa: RUF001
    assert unasked[-2:] == ["", ""]


def test_what_has_no_ratio_has_one_row_with_every_subject() -> None:
    made = sample("connections")
    made.add_figure("held", "Eyewall", "WebSockets", "", [50_000, 49_998, 49_999])
    for subject, lost in (("Eyewall", 0), ("recipe", 312), ("git pull", 207)):
        made.add_figure("new code", subject, "lost", "", [lost])
    made.add_figure("handover", "Eyewall", "largest lag", "s", [0.31])
    made.figures[-1] |= {"wanted": 0.2, "better": "less"}
    _, held, lost, lag = report.rows(made.document())
    assert held == ["held", "WebSockets", "Eyewall 49,999", "", "", "49,998 to 50,000", "", ""]
    assert lost == ["new code", "lost", "Eyewall 0", "recipe 312, git pull 207", "", "", "", ""]
    assert lag == ["handover", "largest lag", "Eyewall 0.310 s", "", "", "", "≤ 0.2 s", "NO"]


def test_a_figure_may_have_ratios_and_be_judged_by_itself() -> None:
    made = sample()
    made.figures[0] |= {"wanted": 6000, "better": "more"}
    ratio, alone = report.rows(made.document())
    assert ratio[-2:] == ["≥ 1.6", "yes"]
    assert alone[2:] == ["Eyewall 5,400 /s", "", "", "5,130 to 5,940", "≥ 6,000 /s", "NO"]


def test_the_terminal_shows_what_has_no_figure_and_counts_what_was_missed() -> None:
    table = report.terminal_table([faulty().document(), sample("static", (5400, 5400)).document()])
    assert f"No figure for {LONG} in hello: 3 of 21,004 answers | were 502" in table
    assert "NOT REACHED: 1 of the 2 that have a wanted figure." in table
    assert "NOT REACHED" not in report.terminal_table([sample().document()])
    rows = [line for line in table.splitlines() if line.startswith(("case", "hello"))]
    assert len({line.index("/s") for line in rows[1:]}) == 1, table


def test_the_page_has_a_table_of_all_parts_and_a_section_for_each() -> None:
    made = sample("static", (5400, 5400))
    made.notes.append("A note.")
    empty = report.fill((REPOSITORY / "docs" / "performance.md").read_text(), [])
    assert empty.count(report.NO_RUN) == 1 + len(bench.PARTS)
    page = report.fill(empty, [sample("dynamic").document(), made.document()])
    assert page.count(report.NO_RUN) == len(bench.PARTS) - 2
    assert report.fill(page, [sample("dynamic").document(), made.document()]) == page
    assert page.index("| **dynamic** |") < page.index("| **static** |")
    assert page.count("| **NO** |") == 1
    section = page.partition("<!-- static: written by make bench -->")[2].partition("<!-- end -->")[0]
    assert "](performance/static.svg)" in section
    assert "- A note." in section
    assert "nginx 1.22.1" in section


def test_the_page_is_what_the_results_say() -> None:
    text = (REPOSITORY / "docs" / "performance.md").read_text()
    parts = [place[1] for place in report.PLACE.findall(text)]
    assert parts == ["table", *bench.PARTS]
    current = report.read_results(REPOSITORY / "docs" / "performance", parts)
    assert report.fill(text, current) == text, "run: PYTHONPATH=tests python benchmarks/report.py"
    for result in current:
        drawn = REPOSITORY / "docs" / "performance" / f"{result['part']}.svg"
        assert charts.chart(result) == (drawn.read_text() if drawn.exists() else ""), (
            "run: PYTHONPATH=tests python benchmarks/report.py"
        )


def test_a_bar_is_as_long_as_its_median_and_its_whisker_spans_the_rounds() -> None:
    svg = charts.chart(sample().document())
    long, short = (float(width) for width in re.findall(r'class="bar" y="\d+" width="([\d.]+)"', svg))
    assert long / short == pytest.approx(5400 / 3300, rel=0.01)
    low, high = map(float, re.findall(r'class="whisker" d="M([\d.]+) [\d.]+H([\d.]+)M', svg)[0])
    assert (low / long, high / long) == (pytest.approx(0.95, rel=0.01), pytest.approx(1.1, rel=0.01))
    assert high == charts.COLUMN
    assert {text.text for text in texts(svg)} >= {"Eyewall", "recipe", "5,400 /s", "3,300 /s"}
    assert "prefers-color-scheme: dark" in svg


def test_names_stay_within_their_panel_and_none_is_lost() -> None:
    made = faulty()
    made.add_figure("a & b", f"<{LONG}>", "requests per second", "1/s", [1.0])
    made.add_figure("a & b", "Eyewall", "requests per second", "1/s", [2.0])
    written = texts(charts.chart(made.document()))
    assert all(len(text.text or "") * charts.CHARACTER <= charts.COLUMN for text in written)
    said = " ".join(text.text or "" for text in written)
    assert {"no", "figure", "<Ansistrano,", "supervisord>"} <= set(said.split()), said


def test_a_curve_reaches_its_last_point() -> None:
    made = results.Results("deploys", "Once.")
    assert charts.chart(made.document()) == ""
    made.add_curve("Wall time", "hosts", "seconds", {"new code": [(8, 40), (1, 14), (2, 19.5)], "nothing": [(1, 5)]})
    svg = charts.chart(made.document())
    (line,) = re.findall(r'class="line" d="M([\d. ]+)"', svg)[:1]
    xs, ys = [list(map(float, line.split()))[first::2] for first in (0, 1)]
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    assert {"1", "2", "8", "40", "hosts", "seconds", "new code", "nothing"} <= {text.text for text in texts(svg)}


class Tree:
    """A copy of what `make bench` needs, with commands that stand in for the real ones."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.out = place / ".build" / "benchmarks"
        self.published = place / "docs" / "performance"
        for folder in ("benchmarks", "bin", "docs", "samples"):
            (place / folder).mkdir(parents=True)
        for name in ("bench.py", "charts.py", "report.py"):
            shutil.copy(BENCHMARKS / name, place / "benchmarks")
        shutil.copytree(REPOSITORY / "tests" / "proof", place / "tests" / "proof")
        page = (REPOSITORY / "docs" / "performance.md").read_text()
        (place / "docs" / "performance.md").write_text(report.fill(page, []))
        stand_in = place / "bin" / "ansible-playbook"
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
        for name in ("application", "connections", "tls", "deploys"):
            (place / "benchmarks" / f"{name}.py").write_text(
                STAND_IN.replace("part = next(", f'part = {name!r}.replace("application", "") or next(')
            )

    @property
    def calls(self) -> list[str]:
        path = self.place / "calls"
        return path.read_text().splitlines() if path.exists() else []

    def put(self, *parts: str, rates: tuple[int, int] = (5400, 3300)) -> None:
        for part in parts:
            with (self.place / "samples" / f"{part}.json").open("w") as file:
                sample(part, rates).write(file)

    def start(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            # a shell's background job, as of `make test &`, ignores SIGINT, and so would what it starts
            ["env", "--default-signal=INT", sys.executable, self.place / "benchmarks" / "bench.py", *arguments],
            env=os.environ
            | {"TREE": str(self.place), "PYTHONPATH": "tests", "PATH": f"{self.place / 'bin'}:{os.environ['PATH']}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        said, _ = process.communicate(timeout=60)
        return process.returncode, said


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path / "tree")


CREATE = "-i benchmarks/inventory playbooks/create_containers.yml site.yml"
DESTROY = "-i benchmarks/inventory playbooks/destroy_containers.yml"
STATIC = "-i benchmarks/inventory benchmarks/measure.yml -e part=static"


def test_all_parts_run_in_order_on_one_host_that_is_removed(tree: Tree) -> None:
    tree.put(*bench.PARTS)
    status, said = tree.run()
    assert status == 0, said
    assert tree.calls[1:] == [
        CREATE,
        STATIC.replace("static", "dynamic"),
        STATIC,
        STATIC.replace("static", "settings"),
        "--inventory benchmarks/inventory",  # connections
        "",  # tls
        "",  # deploys
        DESTROY,
    ]
    assert sorted(path.name for path in tree.published.iterdir()) == sorted(
        f"{part}.{kind}" for part in bench.PARTS for kind in ("json", "svg")
    )
    assert report.NO_RUN not in (tree.place / "docs" / "performance.md").read_text()


def test_one_part_leaves_what_is_known_of_the_others(tree: Tree) -> None:
    tree.put("dynamic", "static")
    assert tree.run("dynamic", "static")[0] == 0
    before = json.loads((tree.published / "dynamic.json").read_text())
    tree.put("dynamic", "static", rates=(7777, 3300))
    status, said = tree.run("static")
    page = (tree.place / "docs" / "performance.md").read_text()
    assert status == 0, said
    assert json.loads((tree.published / "dynamic.json").read_text()) == before
    assert ("Eyewall 5,400 /s" in page, "Eyewall 7,780 /s" in page) == (True, True)
    assert "5,400" not in said


def test_a_missed_figure_is_no_failure_and_an_error_is(tree: Tree) -> None:
    tree.put("static", rates=(3300, 3300))
    status, said = tree.run("static")
    assert (status, "NOT REACHED: 1 of the 1" in said) == (0, True), said
    with (tree.place / "samples" / "static.json").open("w") as file:
        faulty("static").write(file)
    status, said = tree.run("static")
    assert (status, f"No figure for {LONG}" in said) == (1, True), said


def test_a_part_that_fails_shows_why_and_the_rest_is_measured(tree: Tree) -> None:
    tree.put("static")
    tree.out.mkdir(parents=True)
    (tree.out / "dynamic.json").write_text(json.dumps(sample("dynamic").document()))  # of another day
    status, said = tree.run("dynamic", "static")
    assert status == 1
    assert "what the part said" in said
    assert re.search(
        r"dynamic: 'ansible-playbook .*' ended with status 1; .* in \.build/benchmarks/dynamic\.log\.", said
    )
    assert [path.name for path in sorted(tree.published.iterdir())] == ["static.json", "static.svg"]
    assert tree.calls[-1] == DESTROY


def test_a_part_that_ends_well_without_a_result_has_failed(tree: Tree) -> None:
    tree.put("static")
    (tree.place / "samples" / "dynamic.json").write_text("")
    status, said = tree.run("dynamic", "static")
    assert (status, "dynamic: there is no result in .build/benchmarks/dynamic.json: " in said) == (1, True), said
    assert [path.name for path in sorted(tree.published.iterdir())] == ["static.json", "static.svg"]


def test_an_unknown_part_is_refused_before_anything_starts(tree: Tree) -> None:
    status, said = tree.run("static", "statics")
    assert (status, tree.calls) == (2, [])
    assert said == "ONLY: got statics; expected some of dynamic, static, settings, connections, tls, deploys.\n"


def test_hosts_of_ones_own_are_neither_made_nor_removed(tree: Tree) -> None:
    tree.put("static")
    status, said = tree.run("--inventory", "inventory/spare", "static")
    assert status == 0, said
    assert tree.calls[1:] == ["-i inventory/spare site.yml", STATIC.replace("benchmarks/inventory", "inventory/spare")]


def test_a_run_that_is_ended_removes_what_it_made(tree: Tree) -> None:
    tree.put("static")
    (tree.place / "samples" / "wait").touch()
    process = tree.start("static")
    deadline = time.monotonic() + 30
    while not (tree.place / "waiting").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert (tree.place / "tidied").exists(), "the part was not asked to end by itself"
    assert tree.calls[-1] == DESTROY
    assert not tree.published.exists()


def test_what_takes_too_long_is_ended() -> None:
    start = time.monotonic()
    with tempfile.TemporaryFile() as output, pytest.raises(subprocess.TimeoutExpired):
        bench.wait(["sleep", "30"], output.fileno(), 0.2)
    assert time.monotonic() - start < 10
