"""Measures the part `connections`: sets a host up for it, holds the WebSockets, hands over, writes the result.

    python benchmarks/connections.py [-i benchmarks/inventory] [-e websockets=5000]

The result is .build/benchmarks/connections.json. At the end the host is again what its inventory says. On spare hosts
only; benchmarks/application.py and `ansible-playbook site.yml` come before.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# a process' setting, and nothing that an application sees: processes with another one are another generation
CHANGE = ["-e", "tornado_app_watchdog_timeout=31"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--inventory", default="benchmarks/inventory", help="(%(default)s)")
    parser.add_argument("-e", dest="more", action="append", default=[], help="a variable, as for ansible-playbook")
    given = parser.parse_args()
    playbook = ["ansible-playbook", "-i", given.inventory]
    wanted = ["-e", f"@{HERE / 'connections.yml'}", *(word for more in given.more for word in ("-e", more))]
    options = 'part_options="--count {{ websockets }}"'
    try:
        subprocess.run([*playbook, "site.yml", *wanted], cwd=ROOT, check=True)
        measure = subprocess.Popen(
            [*playbook, "benchmarks/measure.yml", "-e", "part=connections", "-e", options, *wanted], cwd=ROOT
        )
        handover = subprocess.Popen([*playbook, "benchmarks/handover.yml", *wanted, *CHANGE], cwd=ROOT)
        status = measure.wait()
        try:
            return status or handover.wait(120)
        except subprocess.TimeoutExpired:
            # nothing was held, as the result says, and it waits for that
            return 1
        finally:
            handover.terminate()
    finally:
        subprocess.run([*playbook, "site.yml"], cwd=ROOT, check=True)


if __name__ == "__main__":
    sys.exit(main())
