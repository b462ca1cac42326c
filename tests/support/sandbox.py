"""What systemd's sandbox makes of a service, as the kernel has it: of each process, not of a file."""

import json
from dataclasses import dataclass

from testinfra.host import Host

# Asked in one go: a command in a container takes a third of a second, in a virtual machine more.
LOOK = """
import json, pathlib, pwd, re, subprocess, sys
def out(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout
found = {}
for service in sys.argv[1:]:
    exposure = re.search(r"exposure level for .*: ([0-9.]+)", out("systemd-analyze", "security", "--no-pager", service))
    group = out("systemctl", "show", "--property=ControlGroup", "--value", service).strip().lstrip("/")
    # cgroup v1 keeps systemd's own tree below "systemd"
    roots = [pathlib.Path("/sys/fs/cgroup", tree, group, "cgroup.procs") for tree in ("", "systemd")]
    processes = []
    for pid in next(root for root in roots if root.exists()).read_text().split():
        status = dict(line.split(":", 1) for line in pathlib.Path("/proc", pid, "status").read_text().splitlines())
        account = pwd.getpwuid(int(status["Uid"].split()[1])).pw_name
        values = {key: status[key].strip() for key in ("CapEff", "CapPrm", "CapInh", "CapAmb", "NoNewPrivs", "Seccomp")}
        processes.append({"pid": int(pid), "account": account, **values})
    found[service] = {"exposure": float(exposure[1]), "processes": processes}
print(json.dumps(found))
"""
MOST = 4.0  # of the 10.0 of systemd-analyze security


@dataclass(frozen=True)
class Process:
    """A process of a service."""

    pid: int
    account: str
    capabilities: bool
    no_new_privileges: bool
    filtered: bool  # its system calls


@dataclass(frozen=True)
class Service:
    """A service: its exposure as `systemd-analyze security` has it, and its processes."""

    exposure: float
    processes: list[Process]

    def of(self, account: str) -> list[Process]:
        return [process for process in self.processes if process.account == account]


def services(host: Host, *names: str) -> dict[str, Service]:
    """What services of a host are allowed."""
    seen = json.loads(host.check_output("python3 -c %s " + " ".join(names), LOOK))
    return {
        name: Service(
            service["exposure"],
            [
                Process(
                    process["pid"],
                    process["account"],
                    any(int(process[kind], 16) for kind in ("CapEff", "CapPrm", "CapInh", "CapAmb")),
                    process["NoNewPrivs"] == "1",
                    process["Seccomp"] == "2",
                )
                for process in service["processes"]
            ],
        )
        for name, service in seen.items()
    }


def assert_sandboxed(service: Service, *accounts: str) -> None:
    """A service is in its sandbox, and what runs as these accounts has no privilege at all."""
    assert service.exposure <= MOST
    assert service.processes
    for process in service.processes:
        assert process.no_new_privileges, process
        assert process.filtered, process
    for account in accounts:
        assert service.of(account), f"nothing runs as {account}: {service}"
        for process in service.of(account):
            assert not process.capabilities, process
