"""What `make bench` runs: the parts one after the other, then one table, JSON, charts and docs/performance.md.

    PYTHONPATH=tests python benchmarks/bench.py  # all parts
    PYTHONPATH=tests python benchmarks/bench.py static  # this one; what the page says of the others stays
    PYTHONPATH=tests python benchmarks/bench.py --inventory inventory/spare  # on hosts of your own, that nobody else uses

What the commands say is in .build/benchmarks/PART.log. Ends with status 1 if a part failed or a subject had errors. A
wanted figure that was not reached is marked NO, and is no failure of the benchmark.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from report import DOCS, publish, read_results, terminal_table

REPOSITORY = Path(__file__).resolve().parents[1]
OUT = REPOSITORY / ".build" / "benchmarks"
OURS = "benchmarks/inventory"  # a container of this machine
GRACE = 60  # seconds for a part to remove what it made
TAIL = 25  # lines


@dataclass(frozen=True)
class Part:
    """A command that writes .build/benchmarks/PART.json; `{inventory}` in it is the one that was given."""

    command: str
    minutes: int  # then it is ended; longer than the bound that the part has itself
    site: bool = True  # it measures the host that site.yml set up


PARTS = {
    "dynamic": Part("ansible-playbook -i {inventory} benchmarks/measure.yml -e part=dynamic", minutes=35),
    "static": Part("ansible-playbook -i {inventory} benchmarks/measure.yml -e part=static", minutes=35),
    "settings": Part("ansible-playbook -i {inventory} benchmarks/measure.yml -e part=settings", minutes=35),
    "connections": Part("python benchmarks/connections.py --inventory {inventory}", minutes=40),
    "tls": Part("python benchmarks/tls.py", minutes=15, site=False),  # on this machine, without a container
    "deploys": Part("python benchmarks/deploys.py", minutes=45, site=False),  # makes hosts of its own
}
APPLICATION = "python benchmarks/application.py .build/bench_app"
DESTROY = "ansible-playbook -i {inventory} playbooks/destroy_containers.yml"
SITE_MINUTES = 15


class PartError(Exception):
    """A part has no result; the message is for the user."""


def run(name: str, commands: Sequence[str], inventory: str, minutes: float) -> None:
    """Run commands one after the other, with their output in NAME.log.

    Raise PartError with the end of that if one fails, or all together take more than their minutes.
    """
    log = OUT / f"{name}.log"
    print(f"{name} …", end=" ", flush=True)
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as output:
        for command in commands:
            words = [word.format(inventory=inventory) for word in command.split()]
            print("$", *words, file=output, flush=True)
            try:
                status = wait(words, output.fileno(), start + minutes * 60 - time.monotonic())
            except subprocess.TimeoutExpired:
                status = None
            if status != 0:
                print("failed", flush=True)
                tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL:]
                what = f"took more than {minutes:g} minutes" if status is None else f"ended with status {status}"
                where = log.relative_to(REPOSITORY)
                raise PartError(
                    "\n".join([*tail, f"{name}: '{' '.join(words)}' {what}; all of its output is in {where}."])
                )
    print(f"{time.monotonic() - start:.0f} s", flush=True)


def wait(words: Sequence[str], output: int, seconds: float) -> int:
    """Run a command and all it starts; what still runs when the time is up, or at Ctrl-C, is ended."""
    command = [sys.executable, *words[1:]] if words[0] == "python" else words
    process = subprocess.Popen(
        # a background job of a shell ignores SIGINT, and so would what it starts
        ["env", "--default-signal=INT", *command],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
    )
    try:
        return process.wait(max(seconds, 0))
    except BaseException:
        # as at a terminal: what it made, it removes
        os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        raise


def check(name: str) -> None:
    """Raise PartError if a part that ended well wrote no result."""
    path = OUT / f"{name}.json"
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PartError(f"{name}: there is no result in {path.relative_to(REPOSITORY)}: {error}") from None


def measure(parts: Sequence[str], inventory: str) -> list[str]:
    """Run the parts; return what failed. What was made is removed at the end, also at Ctrl-C."""
    ours = inventory == OURS
    site = [APPLICATION, f"ansible-playbook -i {{inventory}} {'playbooks/create_containers.yml ' * ours}site.yml"]
    failed, ready = [], False
    try:
        for name in parts:
            (OUT / f"{name}.json").unlink(missing_ok=True)
            try:
                if PARTS[name].site and not ready:
                    run("site", site, inventory, SITE_MINUTES)
                    ready = True
                run(name, [PARTS[name].command], inventory, PARTS[name].minutes)
                check(name)
            except PartError as error:
                print(error, file=sys.stderr)
                failed.append(name)
    finally:
        if ours and any(PARTS[name].site for name in parts):
            try:
                run("destroy", [DESTROY], inventory, SITE_MINUTES)
            except PartError as error:
                print(error, file=sys.stderr)
                failed.append("destroy")
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)} (default: all)")
    parser.add_argument("--inventory", default=OURS, help="hosts that are there, and stay (default: a container)")
    given = parser.parse_args()
    if unknown := [part for part in given.part if part not in PARTS]:
        print(f"ONLY: got {unknown[0]}; expected some of {', '.join(PARTS)}.", file=sys.stderr)
        return 2
    parts = [part for part in PARTS if part in given.part or not given.part]
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    OUT.mkdir(parents=True, exist_ok=True)
    try:
        failed = measure(parts, given.inventory)
    except KeyboardInterrupt:
        print("\nInterrupted: nothing was published.", file=sys.stderr)
        return 130
    results = read_results(OUT, [part for part in parts if part not in failed])
    if results:
        (DOCS / "performance").mkdir(exist_ok=True)
        for result in results:
            shutil.copy(OUT / f"{result['part']}.json", DOCS / "performance")
        publish()
        print(f"\n{terminal_table(results)}")
    return int(bool(failed or any(result["errors"] for result in results)))


if __name__ == "__main__":
    sys.exit(main())
