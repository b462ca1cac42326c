"""What takes a kernel that lets the host do it: mount namespaces, limits of memory, 50,000 open files, a shutdown."""

import contextlib
import time

import pytest
from proof import Traffic
from support.fleet import Fleet
from support.sandbox import assert_sandboxed, services
from support.waiting import until

HOST = "one"
SERVICES = {"supervisor": "testapp", "nginx": "www-data", "haproxy": "haproxy"}
# What each service may write beside its own: its /tmp is no other's
SCRATCH = {"/run", "/run/lock", "/tmp", "/var/tmp", "/dev/shm"}  # noqa: S108 -- only looked at
# An emulated CPU answered 20 requests a second when it had nothing else to do. With so many, the health path had no answer
# within 5 s, twice, and HAProxy took the only host out. These are about 7 a second, of every kind.
RATE, SLOWNESS = 2.0, 10.0

# A process of a service that takes memory until it is ended, as the account of the application.
EAT = """
echo $$ >/sys/fs/cgroup/system.slice/supervisor.service/cgroup.procs
exec setpriv --reuid=testapp --regid=testapp --clear-groups \
  python3 -c "held = []
while True: held.append(bytearray(1 << 20))"
"""


def main_pid(fleet: Fleet) -> str:
    return fleet.sh(HOST, "systemctl show --property=MainPID --value supervisor.service")


@pytest.mark.parametrize("service", SERVICES)
def test_services_are_in_a_sandbox(fleet: Fleet, service: str) -> None:
    assert_sandboxed(services(fleet.host(HOST), service)[service], SERVICES[service])


@pytest.mark.parametrize(
    ("service", "writable"),
    [
        ("supervisor", {"/var/lib/testapp", "/var/log/testapp", "/var/log/supervisor"}),
        ("nginx", {"/var/lib/nginx", "/var/log/nginx"}),
        ("haproxy", {"/var/lib/haproxy"}),
    ],
)
def test_services_see_a_file_system_that_is_read_only(fleet: Fleet, service: str, writable: set[str]) -> None:
    # HAProxy's worker is in a chroot, and sees its own
    pid = services(fleet.host(HOST), service)[service].of("root")[0].pid
    mounts = [line.split() for line in fleet.sh(HOST, "cat /proc/%s/mounts", pid).splitlines()]
    found = {place for _, place, _, options, *_ in mounts if options.split(",")[0] == "rw"}
    # what the kernel makes up has its own rules
    kernels = {place for _, place, kind, *_ in mounts if kind in {"proc", "devpts", "mqueue", "hugetlbfs"}}
    assert found - kernels - SCRATCH == writable
    proc = next(options for _, place, _, options, *_ in mounts if place == "/proc")
    assert "hidepid=invisible" in proc, "others' processes are not to be seen"
    inside = f"nsenter --target {pid} --mount"
    assert fleet.host(HOST).run(f"{inside} ls /home/deploy").rc != 0
    assert fleet.host(HOST).run(f"{inside} ls /dev/vda").rc != 0
    # the control: the host itself has both
    assert fleet.host(HOST).run("ls /home/deploy /dev/vda").rc == 0


@pytest.mark.parametrize("service", SERVICES)
def test_50000_open_files(fleet: Fleet, service: str) -> None:
    for process in services(fleet.host(HOST), service)[service].processes:
        line = fleet.sh(HOST, "grep '^Max open files' /proc/%s/limits", process.pid)
        assert line.split()[3:5] == ["50000", "50000"], process


def test_a_deploy_loses_nothing(fleet: Fleet) -> None:
    before = fleet.settle(HOST, 300)
    with Traffic(fleet.doors, RATE, SLOWNESS) as traffic:
        run = fleet.deploy(f"2.{time.time():.0f}")
    assert run.status == 0, run.output
    assert traffic.report.lost == [], traffic.report.table()
    assert fleet.stand(HOST).release != before.release


def test_another_supervisord_loses_nothing_and_leaves_its_processes_their_tmp(fleet: Fleet) -> None:
    before = set(fleet.settle(HOST, 300).pids.values())
    inside = f"nsenter --target {min(before)} --mount"
    fleet.sh(HOST, f"{inside} touch /tmp/of-the-old-one")
    with Traffic(fleet.doors, RATE, SLOWNESS) as traffic:
        fleet.sh(HOST, "systemctl kill --kill-who=main --signal=KILL supervisor")
        until(lambda: set(fleet.processes(HOST).values()).isdisjoint(before or {0}), "new processes", 300)
    assert traffic.report.lost == [], traffic.report.table()
    after = fleet.settle(HOST, 300).pids.values()
    assert fleet.sh(HOST, f"nsenter --target {min(after)} --mount ls /tmp") == "of-the-old-one"


def test_who_fills_the_memory_is_ended_alone(fleet: Fleet) -> None:
    before, supervisord = fleet.settle(HOST, 300), main_pid(fleet)
    with Traffic(fleet.doors, RATE, SLOWNESS) as traffic:
        assert fleet.host(HOST).run("sh -c %s", EAT).rc != 0
    assert traffic.report.lost == [], traffic.report.table()
    assert "oom-kill:constraint=CONSTRAINT_MEMCG" in fleet.sh(HOST, "journalctl --dmesg --no-pager")
    assert fleet.stand(HOST) == before
    assert main_pid(fleet) == supervisord


def test_systemd_would_have_stopped_the_service(fleet: Fleet) -> None:
    """The control: the same with systemd's own policy."""
    supervisord = main_pid(fleet)
    place = "/run/systemd/system/supervisor.service.d"
    try:
        fleet.sh(HOST, "mkdir -p %s && printf '[Service]\nOOMPolicy=stop\n' >%s/zz.conf", place, place)
        fleet.sh(HOST, "systemctl daemon-reload")
        fleet.host(HOST).run("sh -c %s", EAT)
        until(lambda: main_pid(fleet) not in {supervisord, "0"}, "another supervisord", 120)
    finally:
        fleet.sh(HOST, "rm -r %s; systemctl daemon-reload", place)
    fleet.settle(HOST, 300)


def test_a_changed_limit_takes_effect_without_a_restart(fleet: Fleet) -> None:
    limit = "/sys/fs/cgroup/system.slice/supervisor.service/memory.max"
    fleet.settle(HOST, 300)
    assert fleet.sh(HOST, "cat %s", limit) == str(400 << 20)
    supervisord = main_pid(fleet)
    run = fleet.play("site", supervisord_memory_max="500M")
    assert run.status == 0, run.output
    assert fleet.sh(HOST, "cat %s", limit) == str(500 << 20)
    # not its processes: the site has the inventory's release, and an earlier test may have deployed another one
    assert main_pid(fleet) == supervisord
    fleet.settle(HOST, 300)


def test_a_host_that_is_started_again_drains_first(fleet: Fleet) -> None:
    """Last, for it takes the machine away: nginx ends after the processes, which had their time."""

    def boot() -> str | None:
        with contextlib.suppress(RuntimeError):  # SSH's own: nobody answers
            found: str = fleet.host(HOST).run("cat /proc/sys/kernel/random/boot_id").stdout.strip()
            return found or None
        return None

    before = boot()
    with contextlib.suppress(RuntimeError):
        fleet.host(HOST).run("systemctl reboot")
    until(lambda: boot() not in {None, before}, "another boot", 600)
    journal = fleet.sh(HOST, "journalctl --boot=-1 --no-pager --output=cat --unit=nginx --unit=supervisor --lines=40")
    # what an earlier handover has stopped is no part of it
    shutdown = journal.rpartition("Stopping supervisor.service")[2]
    ended = [line for line in shutdown.splitlines() if "stopped: 800" in line]
    assert len(ended) == 2, journal
    assert all("exit status 0" in line for line in ended), journal
    fleet.settle(HOST, 300)
