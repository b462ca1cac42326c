"""A power cut at any moment of a deploy: the host boots into the old or the new generation, whole.

The application's directory is an ext4 file system on a loop device. At a moment of a deploy its journal is
committed, as the kernel does every five seconds; then the file system loses what is in memory and not on the disk (its shutdown
ioctl, which file system developers test with), the deploy is killed, and the file system is mounted again, which replays the
journal.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ansible.module_utils.testing import patch_module_args
from support import REPOSITORY
from support.disk import Disk
from support.product import helper, load_module, load_yaml
from support.release_files import send
from support.supervised_host import GROUP

pytestmark = pytest.mark.slow

MOMENTS = 20
CHANGES = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
RUN = {"id": "run-1", "owner": "ada@desk", "controller": "desk", "pid": 4711, "pid_started": 99}

Cut = Callable[[], None]


def run(module: Any, **arguments: Any) -> None:
    with patch_module_args({**arguments, "_ansible_check_mode": False}), pytest.raises(SystemExit) as ended:
        module.main()
    assert not ended.value.code


def opt(disk: Disk) -> Path:
    """Return the application's directory on a disk."""
    return disk.place / "opt"


class Supervisord:
    """What a deploy asks of supervisord here: to know a group."""

    reloadConfig = addProcessGroup = staticmethod(lambda *_: [])  # noqa: N815 -- their names


def layout_of(disk: Disk) -> Any:
    load_module("release")
    helper("root").PROGRAMS = disk.place / "conf.d"  # type: ignore[attr-defined]
    return helper("layout").Layout(opt(disk))


@pytest.fixture(scope="module", autouse=True)
def what_is_replaced() -> Iterator[None]:
    """Let the tests after these find modules as they were: what is replaced here is put back."""
    release = load_module("release")
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((helper("root"), "PROGRAMS"), (helper("groups"), "supervisord"), (release, "sync")):
            patch.setattr(module, name, getattr(module, name))
        yield


def deploy(disk: Disk, number: int) -> None:
    """Do what the role does on a host, but for the processes: begin, stage, write a generation, make it current, end."""
    root, release = str(layout_of(disk).root), f"{number}.0"
    module, generation = (load_module(name) for name in ("deploy_lock", "handover"))
    smoke, groups = (helper(name) for name in ("smoke", "groups"))
    groups.supervisord = Supervisord  # type: ignore[attr-defined]
    name = f"board-{release}-aaaaaa"
    run(module, root=root, state="begun", wanted=name, release=release, verb="deploy", expires=600, run=RUN)
    run(
        load_module("release"),
        **send(opt(disk), release, application=f"NUMBER = {number}\n"),
    )
    wanted = {
        "root": root, "generation": name, "release": release, "program": f"[program:{name}]\n", "proof": "[program:x]\n",
        "settings": {"NUMBER": str(number)}, "secrets": {"KEY": "x"}, "ports": [8000], "group": GROUP, "user": None,
        "remember": True,
    }  # fmt: skip
    smoke.SmokeTest(wanted).write()
    mover = generation.Mover(wanted)
    mover.add(name)
    mover.make_current(mover.current if mover.current != name else None)
    run(module, root=root, state="ended", logs=str(disk.place / "logs"), keep=2, run=RUN)


def forked(work: Cut) -> int:
    """Run something in a process of its own; its exit status, negative for a signal."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def at_change(place: Path, reached: Callable[[int], None]) -> None:
    """Call something before each change of a directory, with the number of changes so far; for the rest of this process."""
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (event in CHANGES or writes) and str(place) in " ".join(map(str, arguments[:2])):
            count += 1
            reached(count)

    sys.addaudithook(hook)


def uncured() -> None:
    """Take the cure away: nothing is synced but by the kernel."""
    os.fsync = lambda _file: None
    load_module("release").sync = lambda _place: None  # type: ignore[attr-defined]


class Host(NamedTuple):
    """A host on which 2.0 is current, after 1.0."""

    disk: Disk  # of this image are the copies
    changes: int  # of its directory, by the deploy of 3.0


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    place = tmp_path_factory.mktemp("power-cut")
    disk = Disk(place / "before.img", place / "mount")  # each copy is mounted there: files name their paths
    if os.getuid() or not shutil.which("mkfs.ext4"):
        pytest.skip("needs root and mkfs.ext4")
    disk.make(192 << 20)
    try:
        disk.mount()
    except subprocess.CalledProcessError:
        pytest.skip("needs to be allowed to mount a loop device")
    counted = place / "changes"
    try:
        for name in ("opt/releases", "opt/generations", "opt/static", "conf.d", "logs"):
            (disk.place / name).mkdir(parents=True)
        for number in (1, 2):
            assert forked(lambda number=number: deploy(disk, number)) == 0  # type: ignore[misc]
    finally:
        disk.unmount()
    with copied(disk, place / "count.img") as copy:

        def count() -> None:
            at_change(copy.place, lambda number: counted.write_text(str(number)))
            deploy(copy, 3)

        assert forked(count) == 0
    yield Host(disk, int(counted.read_text()))
    disk.image.unlink()


@contextmanager
def copied(disk: Disk, image: Path) -> Iterator[Disk]:
    """Mount a copy of a disk."""
    copy = Disk(image, disk.place)
    subprocess.run(["cp", "--sparse=always", disk.image, image], check=True)
    copy.mount()
    try:
        yield copy
    finally:
        copy.remove()


def cut_at(disk: Disk, moment: int, *, cured: bool = True) -> None:
    """Begin a deploy of 3.0 that a power cut ends before its change of that number, or after the last one."""

    def until() -> None:
        if not cured:
            uncured()
        at_change(disk.place, lambda number: cut() if number == moment else None)
        deploy(disk, 3)
        cut()

    def cut() -> None:
        disk.cut()
        os.kill(os.getpid(), signal.SIGKILL)

    assert forked(until) == -signal.SIGKILL
    assert disk.unmount()
    disk.mount()


def what_boots(disk: Disk) -> str:
    """Return the release that a boot would start, once it was seen to be whole, and its program to run."""
    layout = layout_of(disk)
    assert layout.boot_damage() is None
    place = opt(disk) / "generations" / layout.current_generation()
    release = str(layout.release_of(place.name))
    assert json.loads((place / "settings.json").read_text()) == {"NUMBER": release[0], "KEY": "x"}
    assert place.name in (place / "supervisor.conf").read_text()
    venv = opt(disk) / "releases" / release / "venv"
    said = subprocess.run([venv / "bin" / "board"], capture_output=True, text=True, check=True).stdout
    assert said.strip() == str(venv)
    store = opt(disk) / "static"
    published = {file: file.relative_to(store).parts[0] for file in store.rglob("*") if file.is_file()}
    for file, content in published.items():
        if not content.startswith("tmp"):  # which nginx looks for under no URL
            assert hashlib.sha512(file.read_bytes()).hexdigest() == content, "a browser keeps it for ten years"
    return release


@pytest.mark.parametrize("part", range(1, MOMENTS + 1))
def test_the_old_or_the_new_generation_is_whole_after_a_power_cut(host: Host, tmp_path: Path, part: int) -> None:
    """The last moment is after the deploy."""
    moment = host.changes * part // MOMENTS + part // MOMENTS
    with copied(host.disk, tmp_path / "disk.img") as disk:
        cut_at(disk, moment)
        found = what_boots(disk)
        assert found == "3.0" if part == MOMENTS else found in ("2.0", "3.0"), (
            f"cut at change {moment} of {host.changes}"
        )
        # and the same command finishes it
        assert forked(lambda: deploy(disk, 3)) == 0
        assert what_boots(disk) == "3.0"
        layout = layout_of(disk)
        assert layout.all_damage() == []


def test_the_control_without_syncs_nothing_boots(host: Host, tmp_path: Path) -> None:
    """As it was: a manifest of 0 bytes is what `current` names."""
    with copied(host.disk, tmp_path / "disk.img") as disk:
        cut_at(disk, host.changes + 1, cured=False)
        with pytest.raises(AssertionError, match="an empty file"):
            what_boots(disk)
        # what the cure is for is also mended
        assert forked(lambda: deploy(disk, 3)) == 0
        assert what_boots(disk) == "3.0"


@pytest.mark.parametrize("synced", [True, False])
def test_what_ansible_wrote_is_whole_after_a_power_cut_once_the_play_has_ended(
    host: Host, tmp_path: Path, synced: bool
) -> None:
    """With the command that ends a play; without it a new file is empty, as the control shows."""
    (task,) = load_yaml(REPOSITORY / "playbooks" / "tasks" / "on_disk.yml")
    with copied(host.disk, tmp_path / "disk.img") as disk:
        (disk.place / "etc").mkdir()
        new = disk.place / "etc" / "eyewall.conf"
        command = ["ansible", "localhost", "-i", "localhost,", "-c", "local", "-m", "copy"]
        command += ["-a", f"dest={new} content=whole", "-e", f"ansible_python_interpreter={sys.executable}"]
        # as on most hosts: one file system, within which it renames
        settings = {**os.environ, "ANSIBLE_REMOTE_TMP": str(disk.place / "tmp")}
        subprocess.run(command, check=True, capture_output=True, env=settings)
        if synced:
            words = task["ansible.builtin.raw"].split()
            assert "/etc" in words
            subprocess.run([str(disk.place / "etc") if word == "/etc" else word for word in words], check=True)
        disk.cut()
        disk.unmount()
        disk.mount()
        assert new.read_text() == ("whole" if synced else "")
