"""The small files: limits, directories, drop-ins, the script that runs at boot, podman's settings."""

import contextlib
import http.server
import json
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.product import render


def lines(text: str) -> list[str]:
    """Return the lines that are no comment."""
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def test_limits_d_has_soft_and_hard_for_the_applications_account() -> None:
    text = render("open_files/etc/security/limits.d/60-open-files.conf.j2", open_files_limit=12345)
    assert [line.split() for line in lines(text)] == [
        ["board", "soft", "nofile", "12345"],
        ["board", "hard", "nofile", "12345"],
    ]


def unit(template: str, **variables: Any) -> dict[str, list[str]]:
    """What a drop-in sets, section and name together, in order; an empty value takes back what was before it."""
    found: dict[str, list[str]] = {}
    section = ""
    for line in lines(render(template, **variables).replace("\\\n", "")):
        if line.startswith("["):
            section = line.strip("[]")
        else:
            name, _, value = line.partition("=")
            found.setdefault(f"{section}.{name}", []).append(value)
    return found


def test_services_get_the_limit() -> None:
    assert unit("open_files/etc/systemd/system/service.d/eyewall-open-files.conf.j2") == {
        "Service.LimitNOFILE": ["50000"]
    }


SERVICES = {"supervisord": "supervisor", "nginx": "nginx", "haproxy": "haproxy"}


def drop_in(role: str, name: str = "eyewall", **variables: Any) -> dict[str, list[str]]:
    return unit(f"{role}/etc/systemd/system/{SERVICES[role]}.service.d/{name}.conf.j2", **variables)


def test_supervisord_comes_back_at_once_and_leaves_its_programs_alone() -> None:
    """However it ends: it dies, or systemd ends it for a package's sake. Only a host that goes down stops them."""
    settings = drop_in("supervisord")
    assert settings["Service.Restart"] == ["always"]
    assert settings["Service.KillMode"] == ["process"]
    assert settings["Service.KillSignal"] == ["SIGKILL"]
    assert settings["Service.ExecReload"] == [""]
    taken_back, command, others = settings["Service.ExecStop"]
    assert taken_back == ""
    assert "in stopping)" in command
    # what systemd makes of it: the shell's own $ and %
    assert '[ -e "/etc/supervisor/conf.d/eyewall-app-${name%%:*}.conf" ]' in others.replace("$$", "$").replace(
        "%%", "%"
    )


@pytest.mark.parametrize("role", SERVICES)
def test_one_switch_takes_the_sandbox_away_and_nothing_else(role: str) -> None:
    inside, outside = drop_in(role), drop_in(role, **{f"{role}_sandbox": False})
    assert outside.items() < inside.items()
    sandbox = {name for name in inside.keys() - outside.keys() if name.startswith("Service.")}
    assert {"Service.NoNewPrivileges", "Service.CapabilityBoundingSet", "Service.SystemCallFilter"} < sandbox
    assert {"Service.ProtectSystem", "Service.ReadWritePaths", "Service.PrivateDevices"} < sandbox
    for name in sandbox:
        assert len(inside[name]) == 1, f"{name} is set twice"


def test_the_tmp_of_programs_outlives_supervisord() -> None:
    """A service's own goes when it ends, and orphans serve on."""
    holder = unit("supervisord/etc/systemd/system/eyewall-tmp.service.j2")
    assert (holder["Service.PrivateTmp"], holder["Service.RemainAfterExit"]) == (["true"], ["true"])
    settings = drop_in("supervisord")
    for relation in ("Wants", "After", "JoinsNamespaceOf"):
        assert settings[f"Unit.{relation}"] == ["eyewall-tmp.service"]


def test_programs_write_where_they_may() -> None:
    more = drop_in("supervisord", supervisord_writable_paths=["/srv/files", "/srv/more"])
    assert more["Service.ReadWritePaths"] == ["/run -/var/log/supervisor -/srv/files -/srv/more"]


@pytest.mark.parametrize("role", SERVICES)
def test_memory_and_tasks_have_a_limit_that_takes_no_restart(role: str) -> None:
    settings = drop_in(role, "eyewall-limits")
    assert {"Service.MemoryMax", "Service.TasksMax"} <= settings.keys()
    assert not settings.keys() & drop_in(role).keys()


def test_who_fills_the_memory_is_ended_alone() -> None:
    for role in ("supervisord", "nginx"):
        assert drop_in(role, "eyewall-limits")["Service.OOMPolicy"] == ["continue"], "systemd would stop all of it"


def test_supervisords_service_starts_the_current_generation() -> None:
    settings = unit("tornado_app/etc/systemd/system/supervisor.service.d/start-current.conf.j2")
    assert settings == {
        "Service.ExecStartPost": ["-/usr/local/sbin/eyewall-app-board-start-current"],
        # the places of the application, in supervisord's sandbox
        "Service.ReadWritePaths": ["-/var/lib/board -/var/log/board -/run/board"],
    }


def test_the_application_writes_its_data_and_sockets_and_nothing_else() -> None:
    text = render("tornado_app/etc/tmpfiles.d/tornado-app.conf.j2")
    entries = {path: rest for _, path, *rest in (line.split() for line in lines(text))}
    assert {line.split()[0] for line in lines(text)} == {"d"}
    writable = {path for path, (_, user, _, _) in entries.items() if user == "board"}
    assert writable == {"/var/lib/board", "/run/board"}
    # neither code nor settings nor logs can be written by it, through owner, group or others
    for path, (mode, user, _, age) in entries.items():
        assert age == "-", "tmpfiles must never clean up"
        if path not in writable:
            assert user == "root"
            assert not int(mode, 8) & 0o022
    # nobody else reads what users gave or what logs say
    assert entries["/var/lib/board"] == ["0750", "board", "board", "-"]
    assert entries["/var/log/board"] == ["0750", "root", "board", "-"]
    assert {"/opt/board", "/opt/board/releases", "/opt/board/generations", "/opt/board/static"} < set(entries)


# ---- The script that runs at boot ----


CONF = "-c /etc/supervisor/supervisord.conf"


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "start-current"
    path.write_text(render("tornado_app/usr/local/sbin/start-current.j2", tornado_app_root=str(tmp_path / "opt")))
    (tmp_path / "opt" / "generations").mkdir(parents=True)
    return path


def run(script: Path, failures: int = 0) -> tuple[int, list[str], str]:
    """Run it with a supervisorctl that fails some times; its status, what it asked for and what it said."""
    log, tools = script.parent / "asked", script.parent / "bin"
    log.write_text("")
    tools.mkdir(exist_ok=True)
    fake = tools / "supervisorctl"
    fake.write_text(f'#!/bin/sh\necho "$*" >>{log}\n[ "$(wc -l <{log})" -gt {failures} ]\n')
    fake.chmod(0o755)
    (tools / "sleep").write_text("#!/bin/sh\n")
    (tools / "sleep").chmod(0o755)
    done = subprocess.run(
        ["sh", script],
        env={"PATH": f"{tools}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    return done.returncode, log.read_text().splitlines(), done.stderr


def test_the_script_is_a_script(script: Path) -> None:
    assert script.read_text().startswith("#!/bin/sh\n#\n# Ansible managed\n")
    done = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    if shellcheck := shutil.which("shellcheck"):
        done = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_it_starts_nothing_before_the_first_deploy(script: Path) -> None:
    assert run(script) == (0, [], "")


def test_it_starts_the_current_generation_alone(script: Path) -> None:
    opt = script.parent / "opt"
    (opt / "generations" / "board-1.0.0-aaaaaa").mkdir()
    (opt / "generations" / "board-1.0.1-bbbbbb").mkdir()
    (opt / "current").symlink_to(Path("generations", "board-1.0.0-aaaaaa"))
    assert run(script) == (0, [f"{CONF} pid", f"{CONF} start board-1.0.0-aaaaaa:*"], "")


def test_it_waits_for_a_supervisord_that_does_not_answer_yet(script: Path) -> None:
    (script.parent / "opt" / "current").symlink_to(Path("generations", "board-1.0.0-aaaaaa"))
    status, asked, _ = run(script, failures=3)
    assert (status, asked) == (0, [f"{CONF} pid"] * 4 + [f"{CONF} start board-1.0.0-aaaaaa:*"])


def test_it_says_so_when_supervisord_never_answers(script: Path) -> None:
    (script.parent / "opt" / "current").symlink_to(Path("generations", "board-1.0.0-aaaaaa"))
    status, asked, said = run(script, failures=10_000)
    assert (status, said) == (1, "supervisord does not answer\n")
    assert set(asked) == {f"{CONF} pid"}


# ---- What keeps the entry point closed at boot ----


@pytest.fixture
def host() -> Iterator[Path]:
    """A host with a generation of two processes; its own place, for the names of Unix sockets are short."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        generation = place / "opt" / "generations" / "board-1"
        generation.mkdir(parents=True)
        (place / "run").mkdir()
        (generation / "generation.json").write_text(json.dumps({"ports": [8000, 8001]}))
        (place / "opt" / "current").symlink_to(generation)
        (place / "await").write_text(
            render(
                "tornado_app/usr/local/sbin/await-ready.j2",
                tornado_app_root=str(place / "opt"),
                tornado_app_sockets=str(place / "run"),
            )
        )
        yield place


@contextlib.contextmanager
def admin(host: Path, port: int, status: int) -> Iterator[None]:
    """The admin socket of a process that says a status when it is asked whether it is ready."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/ready"
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def address_string(self) -> str:
            return "a Unix socket"

    server = socketserver.ThreadingUnixStreamServer(str(host / "run" / f"board-1-{port}.sock"), Answer)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def awaiting(host: Path, seconds: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, host / "await", seconds], text=True, stderr=subprocess.PIPE)


def test_the_entry_point_waits_for_every_process(host: Path) -> None:
    with awaiting(host, "60") as waiting, admin(host, 8000, 200):
        # the other has no socket yet, then one behind which it is starting
        with admin(host, 8001, 503), pytest.raises(subprocess.TimeoutExpired):
            waiting.wait(1.5)
        (host / "run" / "board-1-8001.sock").unlink()
        with admin(host, 8001, 200):
            assert waiting.wait(30) == 0


def test_it_does_not_wait_for_ever(host: Path) -> None:
    with admin(host, 8000, 200), awaiting(host, "0.5") as waiting:
        assert waiting.communicate(timeout=30)[1] == "board-1: not ready after 0.5 s: port 8001\n"
        assert waiting.returncode == 1


def test_it_does_not_wait_for_a_generation_that_is_damaged(host: Path) -> None:
    (host / "opt" / "current" / "generation.json").write_text("")
    with awaiting(host, "60") as waiting:
        said = waiting.communicate(timeout=30)[1]
    assert waiting.returncode == 1
    assert said.startswith(f"{host}/opt/current/generation.json: got JSONDecodeError(")


def test_it_waits_for_nothing_before_the_first_deploy(host: Path) -> None:
    (host / "opt" / "current").unlink()
    with awaiting(host, "60") as waiting:
        assert waiting.wait(30) == 0


def test_only_the_boot_waits() -> None:
    """Nobody pulls the unit in but the boot, and it orders itself: nginx that is restarted later waits for nothing."""
    settings = unit("tornado_app/etc/systemd/system/ready.service.j2", tornado_app_boot_before=["nginx.service"])
    assert settings["Unit.Before"] == ["nginx.service"]
    assert settings["Install.WantedBy"] == ["multi-user.target"]
    assert settings["Service.Type"] == ["oneshot"]
    assert "Service.RemainAfterExit" not in settings
    (limit,) = settings["Service.TimeoutStartSec"]
    assert int(limit.rstrip("s")) > int(settings["Service.ExecStart"][0].split()[-1])


# ---- podman on a restricted machine ----


@pytest.mark.parametrize("low", [True, False])
@pytest.mark.parametrize("hybrid", [True, False])
def test_containers_conf_has_what_the_machine_needs_and_no_more(low: bool, hybrid: bool) -> None:
    text = render(
        "local_containers/containers.conf.j2",
        __local_containers_low_limit=low, __local_containers_hybrid_cgroups=hybrid, __local_containers_hard_limit="20000",
    )  # fmt: skip
    settings = tomllib.loads(text)
    assert set(settings) == ({"containers"} if low else set()) | ({"engine"} if hybrid else set())
    if low:
        limits = dict(limit.split("=") for limit in settings["containers"]["default_ulimits"])
        assert set(limits) == {"nofile", "nproc"}
        for limit in limits.values():
            soft, hard = map(int, limit.split(":"))
            assert soft <= hard == 20000, "more than this machine's own hard limit cannot be set"
    if hybrid:
        assert settings["engine"] == {"runtime": "runc"}


# ---- Upgrades ----


def test_each_host_has_a_turn_of_its_own_around_the_clock() -> None:
    turns = [
        unit(
            "upgrades/etc/systemd/system/apt-daily-upgrade.timer.d/eyewall.conf.j2",
            upgrades_turn=turn,
            upgrades_time="23:15",
        )["Timer.OnCalendar"]
        for turn in range(48)
    ]
    assert [turn[0] for turn in turns] == [""] * 48, "Debian's time is taken back"
    assert [turn[1] for turn in turns[:3]] == ["*-*-* 23:15", "*-*-* 23:45", "*-*-* 00:15"]
    assert len({turn[1] for turn in turns}) == 48


def test_no_host_starts_again_by_itself() -> None:
    for unattended in (True, False):
        text = render("upgrades/etc/apt/apt.conf.d/60eyewall.j2", upgrades_unattended=unattended)
        assert 'Unattended-Upgrade::Automatic-Reboot "false";' in text.splitlines()
        assert ("APT::Periodic::Unattended-Upgrade" in text) == unattended
