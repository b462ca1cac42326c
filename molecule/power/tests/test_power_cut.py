"""A power cut at moments of a deploy, with the whole stack: the host is up again and serves the old or the new release.

`make power-cut` runs it; `make test` does not. The application's directory of a container is an ext4 on a loop device. The file
system stops, the deploy and the container are killed, the file system is mounted again, and the container boots.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY
from support.disk import Disk
from support.fleet import Fleet, ask
from support.waiting import until

# Files of what is current whose bytes are not those that its wheels have (their RECORD), and manifests that are none.
DAMAGED = """
import base64, csv, hashlib, json
from pathlib import Path
current = Path("/opt/testapp/current").resolve()
damaged = []
for manifest in (current / "generation.json", current / "settings.json", current / "release" / "release.json"):
    try:
        json.loads(manifest.read_text())
    except (OSError, ValueError) as error:
        damaged.append(f"{manifest}: {error}")
records = [*current.resolve().glob("release/venv/lib/*/site-packages/*.dist-info/RECORD")]
records += Path("/opt/testapp/environments").glob("*/venv/lib/*/site-packages/*.dist-info/RECORD")
files = 0
for record in records:
    for name, how, _ in csv.reader(record.read_text().splitlines()):
        if not how or name.startswith(".."):
            continue  # pip writes another first line into a script
        kind, _, wanted = how.partition("=")
        try:
            content = (record.parents[1] / name).read_bytes()
        except OSError as error:
            damaged.append(str(error))
            continue
        files += 1
        if base64.urlsafe_b64encode(hashlib.new(kind, content).digest()).rstrip(b"=").decode() != wanted:
            damaged.append(f"{record.parents[1] / name}: {len(content)} bytes")
print(json.dumps({"files": files, "damaged": damaged}))
"""

MOMENTS = int(os.environ.get("MOMENTS", "20"))
BOOT = 180  # seconds; a machine may be slow


class Host(Fleet):
    """The host, its disk, and what a deploy takes on it."""

    def __init__(self, scratch: Path) -> None:
        super().__init__("power", scratch)
        self.disk = Disk(scratch / "disk.img", REPOSITORY / ".local" / "power-cut")
        self.seconds = 0.0

    def release_that_answers(self) -> str | None:
        """Return the release behind the front door; None where nothing answers."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, headers, _ = ask(self.doors["app1"], "/echo")
            return headers["X-Release"] if status == 200 else None
        return None

    def damage(self) -> list[str]:
        """What of the current release has not the bytes that were built."""
        found = json.loads(self.sh("app1", "python3 -c %s", DAMAGED))
        assert found["files"] > 100 or found["damaged"], "the control: there is something to look at"
        return list(found["damaged"])

    def cut(self) -> None:
        """Cut the power, and let the host boot."""
        self.disk.cut()
        container = self.container("app1")
        subprocess.run(["podman", "kill", "--signal", "KILL", container], check=True, capture_output=True)
        until(self.disk.unmount, "the container to be gone", BOOT)
        self.disk.mount()
        subprocess.run(["podman", "start", container], check=True, capture_output=True)


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    if os.getuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root and mkfs.ext4")
    host = Host(tmp_path_factory.mktemp("power-cut"))
    host.patience = 1200
    host.disk.make(1 << 30)
    host.disk.mount()
    try:
        for playbook in ("create_containers", "site"):
            run = host.play(playbook, **host.release("first"))
            assert run.status == 0, run.output
        begun = time.monotonic()
        run = host.deploy("second")
        assert run.status == 0, run.output
        host.seconds = time.monotonic() - begun
        yield host
    finally:
        host.play("destroy_containers")
        host.disk.remove()


@pytest.mark.parametrize("part", range(1, MOMENTS + 1))
def test_the_host_serves_the_old_or_the_new_release_after_a_power_cut(host: Host, part: int) -> None:
    """The last moment is after a deploy that said it succeeded."""
    old, new = host.release_that_answers(), f"{time.time():.0f}.{part}"
    deploy, begun = host.start("deploy", **host.release(new)), time.monotonic()
    if part == MOMENTS:
        assert host.ended(deploy).status == 0
    else:
        time.sleep(max(0, host.seconds * part / MOMENTS - (time.monotonic() - begun)))
    host.cut()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(deploy.pid, signal.SIGKILL)
    deploy.communicate()
    found = until(host.release_that_answers, "an answer after the boot", BOOT)
    assert found == new if part == MOMENTS else found in (old, new)
    current = json.loads(host.sh("app1", "cat /opt/testapp/current/generation.json"))
    assert current["release"] == found, "what boots is what `current` names"
    assert host.damage() == []
    run = host.deploy(new)
    assert run.status == 0, run.output
    stands = host.settle("app1")
    assert stands.release == new
    assert host.release_that_answers() == new
    status = host.play("status")
    assert status.status == 0, status.output


def without_syncs(place: Path) -> Path:
    """A copy of this repository whose modules leave it to the kernel when bytes get onto the disk."""
    ignored = shutil.ignore_patterns(".git", ".venv", ".build", ".local", "__pycache__")
    shutil.copytree(REPOSITORY, place, symlinks=True, ignore=ignored)
    (place / ".local").symlink_to(REPOSITORY / ".local")
    layout = next(place.glob("**/*layout.py"))
    text, number = re.subn(r"os\.fsync\(.*\)|libc\.syncfs\(.*\)", "0", layout.read_text())
    assert number == 3, "syncs are somewhere else now"
    layout.write_text(text)
    return place


def test_the_control_without_syncs_what_a_deploy_wrote_is_damaged(host: Host, tmp_path: Path) -> None:
    """It said that it succeeded, and the same cut comes."""
    inventory = str(host.inventory)
    place = without_syncs(tmp_path / "copy")
    new = {**host.release(f"{time.time():.0f}.control"), "tornado_app_build": str(tmp_path / "build")}
    command = ["ansible-playbook", "playbooks/deploy.yml", "-i", inventory, "-e", json.dumps(new)]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=host.patience)
    assert done.returncode == 0, done.stdout
    host.cut()
    booted = "systemctl is-system-running --wait >/dev/null; test -e /run/nginx.pid"
    until(lambda: host.host("app1").run(booted).rc == 0, "the boot", BOOT)
    assert host.damage()
    # and the next deploy finds it, and makes it again
    run = host.deploy(f"{time.time():.0f}.mended")
    assert run.status == 0, run.output
    assert host.damage() == []
