"""``python -m proof``: runs a command again and again under traffic, and reports what became of each request."""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from proof.report import Report
from proof.traffic import Traffic, loopback


def arguments_of(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; a mistake in it ends the process with status 2 and a sentence."""
    parser = argparse.ArgumentParser(prog="python -m proof", description=__doc__)
    add = parser.add_argument
    add("command", help="run with /bin/sh, with the number of the deploy in PROOF_DEPLOY, from 1 on")
    add("--door", action="append", required=True, metavar="NAME=URL", help="a front door; repeatable")
    add("--ca", default="", metavar="FILE", help="the CA that doors with https:// are checked with")
    add("--out", type=Path, required=True, metavar="DIR", help="gets the report and what each command said")
    add("--deploys", type=int, default=20, metavar="N", help="how many times (default: %(default)s)")
    add("--rate", type=float, default=300.0, metavar="N", help="quick requests per second (default: %(default)g)")
    add("--pause", type=float, default=3.0, metavar="SECONDS",
        help="traffic before, between and after the commands (default: %(default)g)")  # fmt: skip
    add("--timeout", type=float, default=600.0, metavar="SECONDS",
        help="how long a command may take (default: %(default)g)")  # fmt: skip
    given = parser.parse_args(arguments)
    pairs = [door.partition("=") for door in given.door]
    try:
        given.doors = {name: loopback(url) for name, _, url in pairs}
    except ValueError as error:
        parser.error(str(error))
    if any(url.startswith("https:") for url in given.doors.values()) and not Path(given.ca).is_file():
        parser.error(f"--ca: got {given.ca!r}; expected the file of the CA, because a door has https://.")
    return given


def run(command: str, number: int, log: Path, timeout: float) -> str:
    """Run the command; return "" if it succeeded, else what it did instead."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["/bin/sh", "-c", command],
            env=os.environ | {"PROOF_DEPLOY": str(number)},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
        try:
            status = process.wait(timeout)
        except BaseException as error:  # Ctrl-C, too, which its process group does not hear
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                return f"took longer than {timeout:g} s"
            raise
    return f"ended with status {status}" if status else ""


def prove(given: argparse.Namespace) -> tuple[Report, str]:
    """Run the commands one after the other until one fails; return the report and what failed."""
    failure = ""
    given.out.mkdir(parents=True, exist_ok=True)
    with Traffic(given.doors, given.rate, ca=given.ca) as traffic:
        time.sleep(given.pause)
        for number in range(1, given.deploys + 1):
            begun = time.monotonic()
            log = given.out / f"deploy-{number}.log"
            with traffic.during(f"deploy {number}"):
                failed = run(given.command, number, log, given.timeout)
            sys.stdout.write(f"deploy {number}: {time.monotonic() - begun:.1f} s, {traffic.report.verdict()} so far\n")
            sys.stdout.flush()
            time.sleep(given.pause)
            if failed:
                failure = f"deploy {number} {failed}; what it said is in {log}"
                break
    return traffic.report, failure


def main(arguments: Sequence[str] | None = None) -> int:
    """Return 0 if every command succeeded and nothing was lost, else 1, with a sentence on stderr."""
    given = arguments_of(arguments)
    report, failure = prove(given)
    report.save(given.out)
    sys.stdout.write(f"\n{report.table()}")
    if not failure and report.lost:
        failure = f"{report.verdict()}; each is in {given.out / 'report.json'}"
    if failure:
        sys.stderr.write(f"proof: {failure}\n")
    return bool(failure)


if __name__ == "__main__":
    sys.exit(main())
