"""Deploys, side by side: how long they take, in how many tasks, and what is lost. Writes .build/benchmarks/deploys.json.

PYTHONPATH=tests python benchmarks/deploys.py [--only compare|curve]

On one host, each round brings new code with Eyewall, with Ansistrano, and with `git pull && supervisorctl restart`, one
after the other, each with traffic at its own front door. Then a code-only deploy is timed with more hosts, and with
more processes on a host. Hosts of your own are named by an inventory like the ones in benchmarks/inventory-deploys;
the front doors of the host to compare on must be reached at loopback addresses (ssh -L), because a load goes nowhere else.
"""

import argparse
import contextlib
import hashlib
import http.client
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from on_host.results import Results, version
from proof import Traffic
from support.release import write_release

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
BUILD = ROOT / ".build" / "benchmarks"
CODE = BUILD / "testapp"  # what the inventories deploy
ROLES = BUILD / "roles"
SSH = BUILD / "ssh_config"
REPOSITORY = BUILD / "repository.git"
ANSISTRANO, TAG = "https://github.com/ansistrano/deploy", "4.4.0"

TIMEOUT = 1800  # seconds that a command may take
RATE = 100  # quick requests per second
BEFORE = 2  # seconds of traffic before a deploy
AFTER = 12  # and after it: nginx leaves a process out for ten, if it failed once (fail_timeout)
HOSTS = (1, 2, 8)
PROCESSES = (2, 4, 8, 16)
BATCHES = (1, 2, 4, 8)  # of BATCHED processes
BATCHED = 8
TIMES = 2  # how often a point of a curve is measured

DOORS = {"Eyewall": "http://127.0.0.1:8150", "Ansistrano": "http://127.0.0.1:8151", "git pull": "http://127.0.0.1:8152"}
DEPLOY = "code-only deploy"


@dataclass
class Run:
    """What a command took: seconds, and tasks where it was a playbook."""

    seconds: float
    tasks: int = 0
    requests: int = 0
    lost: int = 0


class FailedError(Exception):
    """A command that did not do what it is there for, with the last lines that it printed."""


def run(*command: str | Path, **variables: str) -> str:
    """Run a command here, and return what it printed. FailedError if it failed or took longer than TIMEOUT seconds."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(
            words, cwd=ROOT, env=os.environ | variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise FailedError(f"{' '.join(words)} took longer than {TIMEOUT} s.") from None
    if done.returncode:
        last = "\n".join(done.stdout.strip().splitlines()[-30:])
        raise FailedError(f"{' '.join(words)} ended with status {done.returncode}:\n{last}")
    return done.stdout


class Site:
    """The hosts of an inventory."""

    def __init__(self, inventory: Path) -> None:
        self.inventory = inventory
        listing = json.loads(run("ansible-inventory", "-i", inventory, "--list"))
        self.hosts: list[str] = listing["app"]["hosts"]
        self.is_fleet = any("local_containers_name" in variables for variables in listing["_meta"]["hostvars"].values())

    def play(self, *words: str | Path) -> Run:
        """Run playbooks, with `words` for ansible-playbook."""
        begun = time.monotonic()
        said = run(
            "ansible-playbook", "-i", self.inventory, *words, ANSIBLE_NOCOLOR="1", ANSIBLE_ROLES_PATH=f"roles:{ROLES}"
        )
        seconds = time.monotonic() - begun
        recap = said.rpartition("PLAY RECAP")[2]
        return Run(seconds, tasks=sum(int(found) for found in re.findall(r"\bok=(\d+)", recap)))

    @contextlib.contextmanager
    def created(self) -> Iterator[None]:
        """Hosts that are containers are recreated, and removed at the end; other hosts are taken as they are."""
        if not self.is_fleet:
            yield
            return
        self.play("playbooks/destroy_containers.yml")
        try:
            self.play("playbooks/create_containers.yml")
            yield
        finally:
            self.play("playbooks/destroy_containers.yml")


class Comparison:
    """The host on which deploys are compared, with Eyewall and the peers on it."""

    def __init__(self, site: Site, results: Results) -> None:
        self.site, self.results = site, results
        (self.host,) = site.hosts
        self.number = 0

    def ssh(self, command: str) -> str:
        return run("ssh", "-F", SSH, self.host, command)

    def git(self, *words: str | Path) -> str:
        who = ("-c", "user.name=benchmark", "-c", "user.email=benchmark@localhost")
        place = ("--git-dir", REPOSITORY, "--work-tree", CODE)
        return run("git", *who, *place, *words, GIT_SSH_COMMAND=f"ssh -F {SSH}")

    def write(self) -> None:
        """Write the next release."""
        self.number += 1
        write_release(f"{time.time():.0f}-{self.number}", CODE)
        shutil.copy(PEERS / "serve.py", CODE)

    def push(self) -> None:
        """Bring what was written to where the peers fetch it."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", str(self.number))
        self.git("push", "--quiet", f"{self.host}:/srv/testapp.git", "HEAD:main")

    def set_up(self) -> None:
        """Make the site, with the peers beside it."""
        self.write()
        for case in ("first site.yml", "second site.yml"):
            self.add(case, "Eyewall", [self.site.play("site.yml")])
        self.site.play(PEERS / "peers.yml", "-e", f"peers_ssh={SSH}")
        shutil.rmtree(REPOSITORY, ignore_errors=True)
        run(
            "git",
            "clone",
            "--quiet",
            "--bare",
            f"{self.host}:/srv/testapp.git",
            REPOSITORY,
            GIT_SSH_COMMAND=f"ssh -F {SSH}",
        )
        self.push()
        self.ssh("cd /srv/pulled && { [ -d .git ] || git clone --quiet /srv/testapp.git .; } && git pull --quiet")
        self.ssh("sudo supervisorctl -c /etc/supervisor/supervisord.conf update")

    def add(self, case: str, subject: str, runs: list[Run]) -> None:
        """Add the figures of a subject: a run for each round."""
        add = self.results.add_figure
        add(case, subject, "time", "s", [one.seconds for one in runs])
        if runs[0].tasks:
            add(case, subject, "tasks", "", [one.tasks for one in runs])
        if runs[0].requests:
            add(case, subject, "lost requests", "", [one.lost for one in runs])
            add(case, subject, "requests", "", [one.requests for one in runs])

    def deploy(self, subject: str) -> Run:
        """Bring what was written last."""
        if subject == "Eyewall":
            return self.site.play("playbooks/deploy.yml")
        if subject == "Ansistrano":
            return self.site.play(PEERS / "ansistrano.yml")
        begun = time.monotonic()
        restart = "supervisorctl -c /etc/supervisor/supervisord.conf restart 'pulled:*'"
        self.ssh(f"cd /srv/pulled && git pull --quiet && sudo {restart}")
        return Run(time.monotonic() - begun)

    def subjects(self) -> list[str]:
        """Who takes part: Ansistrano where it can be had."""
        found = list(DOORS)
        source = f"git+{ANSISTRANO},{TAG},ansistrano.deploy"
        try:
            run("ansible-galaxy", "role", "install", "--force", "-p", ROLES, source)
            self.site.play(PEERS / "ansistrano.yml")
        except FailedError as failure:
            found.remove("Ansistrano")
            text = f"The role could not be had; where GitHub is reached, this gets it: ansible-galaxy role install {source}"
            self.results.add_error(DEPLOY, "Ansistrano", text)
            sys.stderr.write(f"{text}\n{failure}\n")
        return found

    def measure(self, rounds: int) -> None:
        """Deploy with each subject in turn, and Eyewall back and for nothing."""
        self.set_up()
        first = style(CODE)
        subjects = self.subjects()
        runs: dict[tuple[str, str], list[Run]] = {}

        def keep(case: str, subject: str, one: Run) -> None:
            runs.setdefault((case, subject), []).append(one)
            print(
                f"{case}, {subject}: {one.seconds:.1f} s, {one.tasks} tasks, {one.lost} of {one.requests} lost",
                flush=True,
            )

        # the first round warms up: caches of the controller, compiled modules
        for _ in range(rounds + 1):
            self.write()
            self.push()
            for subject in subjects:
                with under_traffic(subject, style(CODE)) as traffic:
                    one = self.deploy(subject)
                keep(DEPLOY, subject, counted(one, traffic))
            keep("no-op deploy", "Eyewall", self.deploy("Eyewall"))
            with under_traffic("Eyewall", first) as traffic:
                one = self.site.play("playbooks/rollback.yml")
            keep("rollback", "Eyewall", counted(one, traffic))
        for (case, subject), found in runs.items():
            self.add(case, subject, found[1:])
        for subject in subjects[1:]:
            wanted = 0.85 if subject == "Ansistrano" else None
            self.results.add_ratio(DEPLOY, "Eyewall", subject, "time", wanted=wanted, better="less")
        python = (
            "sudo -u testapp /opt/testapp/current/release/venv/bin/python -c 'import tornado; print(tornado.version)'"
        )
        commands = {"nginx": "/usr/sbin/nginx -v", "supervisor": "supervisord --version", "tornado": python,
                    "python": "/usr/bin/python3 --version", "rsync": "rsync --version", "git": "git --version"}  # fmt: skip
        found_versions = {name: version("ssh", "-F", str(SSH), self.host, line) for name, line in commands.items()}
        self.results.versions |= found_versions | {"ansible-core": version("ansible", "--version"), "Ansistrano": TAG}


def style(code: Path) -> str:
    """SHA-512 of the style sheet, which is another one in each release; a process names it in its page."""
    return hashlib.sha512((code / "src" / "testapp" / "static" / "testapp.css").read_bytes()).hexdigest()


@contextlib.contextmanager
def under_traffic(subject: str, wanted: str) -> Iterator[Traffic]:
    """Have traffic at the front door of `subject` while the block runs, and see that the release `wanted` answers then."""
    with Traffic({subject: DOORS[subject]}, RATE) as traffic:
        time.sleep(BEFORE)
        yield traffic
        time.sleep(AFTER)
    door = http.client.HTTPConnection(urlsplit(DOORS[subject]).netloc, timeout=10)
    with contextlib.closing(door):
        door.request("GET", "/")
        if wanted not in door.getresponse().read().decode():
            raise FailedError(f"{subject} deployed, and {DOORS[subject]} does not answer with the release.")


def counted(one: Run, traffic: Traffic) -> Run:
    """The same run, with what became of its requests. WebSockets are left out: the guide's nginx knows none."""
    requests = [request for request in traffic.report.requests if not request.kind.startswith("WebSocket")]
    lost = sum(request.fate == "lost" for request in requests)
    return Run(one.seconds, one.tasks, len(requests), lost)


def curves(site: Site, results: Results) -> None:
    """Time a code-only deploy with more hosts, and with more processes on one host."""
    write_release("curve", CODE)
    site.play("site.yml")

    def point(x: int, *words: str) -> tuple[int, float]:
        taken = []
        for number in range(TIMES):
            write_release(f"{time.time():.0f}-{x}-{number}", CODE)
            taken.append(site.play("playbooks/deploy.yml", *words).seconds)
        print(f"{words}: {taken}", flush=True)
        return x, round(statistics.median(taken), 1)

    def on_one(x: int, variable: str, *words: str) -> tuple[int, float]:
        given = ("--limit", site.hosts[0], "-e", f"{variable}={x}", *words)
        site.play("playbooks/deploy.yml", *given)  # the change of the number is not what is measured
        return point(x, *given)

    lines = {DEPLOY: [point(number, "--limit", ",".join(site.hosts[:number])) for number in HOSTS]}
    results.add_curve("Time of a deploy against the number of hosts, 2 processes each", "hosts", "s", lines)
    lines = {DEPLOY: [on_one(number, "tornado_app_processes") for number in PROCESSES]}
    results.add_curve("Time of a deploy against the number of processes of one host", "processes", "s", lines)
    some = ("-e", f"tornado_app_processes={BATCHED}")
    lines = {DEPLOY: [on_one(number, "tornado_app_parallel_processes", *some) for number in BATCHES]}
    title = f"Time of a deploy against tornado_app_parallel_processes, {BATCHED} processes on one host"
    results.add_curve(title, "processes that change at once", "s", lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    inventories = ROOT / "benchmarks" / "inventory-deploys"
    add = parser.add_argument
    add("--only", choices=["compare", "curve"], help="one of the two parts")
    add("--rounds", type=int, default=5, help="deploys of each subject that count (default: %(default)s)")
    add("--one", type=Path, default=inventories / "one.yml", help="inventory of the host to compare on")
    add("--many", type=Path, default=inventories / "many.yml", help=f"inventory of {max(HOSTS)} hosts for the curves")
    given = parser.parse_args()

    results = Results(
        "deploys",
        f"On one host, {given.rounds} rounds after one that does not count, in each Eyewall, Ansistrano and git pull one "
        f"after the other with the same new code, and {RATE} quick requests per second, with slow ones, uploads and "
        f"downloads, at the front door of the one that deploys, until {AFTER} s after it.",
        notes=[
            "Time is from the start of the command to its end, on a controller that shares the CPUs with its hosts.",
            "Tasks are those that Ansible ran (ok in its recap).",
            "The peers serve behind the nginx file of Tornado's guide and are restarted by supervisor. Their requirements "
            "are installed already, and they fetch the code from a repository on the host itself.",
            "Requests over WebSockets are not counted: the guide's nginx file passes none on.",
        ],
    )
    BUILD.mkdir(parents=True, exist_ok=True)
    if given.only != "curve":
        site = Site(given.one)
        with site.created():
            Comparison(site, results).measure(given.rounds)
    if given.only != "compare":
        site = Site(given.many)
        with site.created():
            curves(site, results)
    with (BUILD / "deploys.json").open("w", encoding="utf-8") as file:
        results.write(file)


if __name__ == "__main__":
    try:
        main()
    except FailedError as failure:
        sys.exit(str(failure))
