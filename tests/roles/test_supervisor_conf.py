"""supervisord's configuration and the one of a process group, read by supervisor's own parser."""

import os
import pwd
import re
import resource
import shlex
from pathlib import Path
from typing import Any

import pytest
from eyewall.arguments import make_parser
from supervisor.options import ServerOptions
from support import REPOSITORY
from support.product import BOARD, ROLES, built, evaluate, load_yaml, plugin, preflight, render

MAIN = "supervisord/etc/supervisor/supervisord.conf.j2"
PROGRAM = "tornado_app/etc/supervisor/conf.d/program.conf.j2"
USER = pwd.getpwuid(os.getuid()).pw_name


def realize(tmp_path: Path, program: str = "", **given: Any) -> ServerOptions:
    """Return what supervisord makes of its configuration, with directories that are here."""
    text = render(MAIN, **given)
    for old in ("/run/", "/var/log/supervisor", "/etc/supervisor/conf.d"):
        assert old in text
        text = text.replace(old, f"{tmp_path}/" if old.endswith("/") else str(tmp_path))
    (tmp_path / "supervisord").write_text(text)
    if program:
        (tmp_path / "program.conf").write_text(program)
    options = ServerOptions()
    options.realize(["-c", str(tmp_path / "supervisord")])
    return options


def program(tmp_path: Path, **given: Any) -> str:
    places = {
        f"tornado_app_{name}": str(tmp_path / name) for name in ("root", "data", "logs", "sockets")
    }  # supervisor refuses directories that are not there
    for place in places.values():
        Path(place).mkdir(exist_ok=True)
    return render(PROGRAM, **({"tornado_app_user": USER} | places | given))


def group(tmp_path: Path, **given: Any) -> Any:
    """Return the one process group of an application."""
    (found,) = realize(tmp_path, program(tmp_path, **given)).process_group_configs
    return found


def processes(tmp_path: Path, **given: Any) -> list[Any]:
    return list(group(tmp_path, **given).process_configs)


def test_supervisord_asks_for_the_sites_open_files(tmp_path: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert realize(tmp_path, open_files_limit=min(hard, 4321)).minfds == min(hard, 4321)


def test_root_alone_may_speak_to_supervisord(tmp_path: Path) -> None:
    (server,) = realize(tmp_path).server_configs
    assert server["section"] == "unix_http_server", "an inet_http_server could be reached by every account"
    assert server["file"] == f"{tmp_path}/supervisor.sock"
    assert server["chmod"] == 0o700
    assert server["chown"] == (0, 0)


def test_supervisords_log_is_rotated(tmp_path: Path) -> None:
    options = realize(tmp_path, supervisord_log_max_bytes=4096, supervisord_log_backups=2, supervisord_log_level="warn")
    assert (options.logfile_maxbytes, options.logfile_backups) == (4096, 2)
    assert options.loglevel == 30
    assert realize(tmp_path).logfile_maxbytes == 10 * 1024 * 1024


@pytest.mark.parametrize("ports", [[8000], [8000, 8001], [9100, 9101, 9102, 9103]])
def test_a_process_for_each_port_named_after_it(tmp_path: Path, ports: list[int]) -> None:
    found = processes(tmp_path, __tornado_app_preflight=preflight(ports))
    assert [int(process.name) for process in found] == ports
    for process in found:
        command = shlex.split(process.command)
        assert command[command.index("--port") + 1] == process.name
        assert command[command.index("--admin") + 1].endswith(f"-{process.name}.sock")
        assert process.stdout_logfile.endswith(f"-{process.name}.log")


def test_a_process_that_ends_has_ended_before_supervisord_kills_it(tmp_path: Path) -> None:
    """One that is killed tells nothing that it started, and leaves no stack of what it hangs in."""
    runner = REPOSITORY / "runner" / "src" / "eyewall"
    seconds = {
        name: float(value)
        for file in ("watchdog.py", "children.py")
        for name, value in re.findall(r"(?m)^([A-Z_]+) = ([\d.]+)", (runner / file).read_text())
    }
    assert seconds["EXIT_SECONDS"] > seconds["GRACE"] + seconds["GONE_SECONDS"], "what it started has its time to end"
    last = seconds["EXIT_SECONDS"] + seconds["GONE_SECONDS"] + 0.5
    for process in processes(tmp_path, tornado_app_drain_timeout=45):
        assert 45 + last < process.stopwaitsecs


def test_a_process_has_what_the_handover_wants(tmp_path: Path) -> None:
    drain = 45
    for process in processes(tmp_path, tornado_app_drain_timeout=drain, tornado_app_log_max_bytes=5000):
        assert process.autostart is False, "after a reboot, two generations would start"
        assert process.autorestart.__name__ == "RestartUnconditionally"
        assert process.stopsignal == 15
        assert process.stopwaitsecs > drain, "supervisord would kill a process that still drains"
        assert process.uid == os.getuid()
        assert process.startretries >= 10
        assert process.redirect_stderr is True
        assert process.stdout_logfile_maxbytes == 5000
        assert process.directory == f"{tmp_path}/data"
        assert process.environment["HOME"] == f"{tmp_path}/data"


def test_the_runner_takes_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = group(
        tmp_path,
        tornado_app_debug=True,
        tornado_app_debug_switches={"autoreload": False, "static_hash_cache": True},
        tornado_app_drain_timeout=12,
        tornado_app_trusted=["127.0.0.1", "10.0.0.0/8"],
    )
    interpreter, *command = shlex.split(board.process_configs[0].command)
    assert interpreter == f"{tmp_path}/root/releases/1.0.0+0badcafe/venv/bin/python"
    assert command[:3] == ["-P", "-m", "eyewall"]
    given = make_parser().parse_args(command[3:])
    assert given.target == ["board:make_app"]
    assert given.port == 8000
    assert given.debug is True
    assert (given.autoreload, given.static_hash_cache, given.serve_traceback) == (False, True, None)
    assert given.drain_timeout == 12
    assert given.trusted == ["127.0.0.1", "10.0.0.0/8"]
    assert given.release == "1.0.0+0badcafe"
    assert given.open_files == 50000
    assert board.name == given.generation
    assert str(given.settings) == f"{tmp_path}/root/generations/{given.generation}/settings.json"


@pytest.mark.parametrize(
    ("given", "options"),
    [
        ({}, ["--no-autoreload"]),
        ({"tornado_app_debug": True}, ["--debug"]),
        ({"tornado_app_debug_switches": {"autoreload": True}}, ["--autoreload"]),
        ({"tornado_app_debug_switches": {"serve_traceback": True}}, ["--no-autoreload", "--serve-traceback"]),
        ({"tornado_app_production": True}, ["--production"]),
    ],
)
def test_debug_is_off_unless_asked_for(tmp_path: Path, given: dict[str, Any], options: list[str]) -> None:
    words = processes(tmp_path, **given)[0].command.split()
    debug = {"--debug", "--production"} | {
        f"--{no}{name}" for no in ("", "no-") for name in ("autoreload", "serve-traceback")
    }
    assert [word for word in words if word in debug] == options


def test_no_secret_is_in_the_command_or_the_configuration(tmp_path: Path) -> None:
    text = program(tmp_path, tornado_app_secrets={"KEY": "hunter2-hunter2"})
    assert "[program:@generation@]" in text
    assert "hunter2" not in text


# ---- In the smoke test ----


def command_of(process: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the runner makes of a process's command, and the interpreter."""
    interpreter, *command = shlex.split(process.command)
    assert command[:3] == ["-P", "-m", "eyewall"]
    return {"interpreter": interpreter, **vars(make_parser().parse_args(command[3:]))}


def test_what_is_proved_is_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_air = group(tmp_path, __tornado_app_preflight=preflight([9100, 9101]), tornado_app_debug=True)
    off_air = group(
        tmp_path, __tornado_app_preflight=preflight([9100, 9101]), tornado_app_debug=True, __tornado_app_smoke_test=True
    )
    serving = on_air.process_configs[0]
    (proof,) = off_air.process_configs
    assert (off_air.name, proof.name) == (f"{on_air.name}-proof", "9100")
    own = {
        "address": f"unix:{tmp_path}/sockets/{off_air.name}.http",
        "admin": tmp_path / "sockets" / f"{off_air.name}-9100.sock",
        "drain_timeout": 1.0,
    }
    served = command_of(serving, monkeypatch)
    assert served["generation"] == on_air.name
    assert all(served[option] != value for option, value in own.items())
    assert command_of(proof, monkeypatch) == {**served, **own}
    for attribute in ("uid", "directory", "environment", "stopsignal", "redirect_stderr", "stdout_logfile_maxbytes"):
        assert getattr(proof, attribute) == getattr(serving, attribute)
    # module_utils/prune.py removes what begins with the generation's name
    assert proof.stdout_logfile == f"{tmp_path}/logs/{off_air.name}-9100.log"


def test_a_process_off_the_air_is_started_once_and_never_at_boot(tmp_path: Path) -> None:
    (proof,) = processes(tmp_path, __tornado_app_smoke_test=True, tornado_app_drain_timeout=45)
    assert proof.autostart is False
    assert proof.autorestart is False
    assert (proof.startretries, proof.startsecs) == (0, 0)
    drain = shlex.split(proof.command)[shlex.split(proof.command).index("--drain-timeout") + 1]
    assert int(drain) < proof.stopwaitsecs < 10, "the smoke test waits so long for it to leave"


def test_no_secret_is_in_the_configuration_off_the_air(tmp_path: Path) -> None:
    text = program(tmp_path, tornado_app_secrets={"KEY": "hunter2-hunter2"}, __tornado_app_smoke_test=True)
    assert "-proof]" in text
    assert "hunter2" not in text


# ---- The name of a generation ----


def name(**given: Any) -> str:
    """The name of the generation that the role's preflight plans."""
    (task,) = [
        task for task in load_yaml(ROLES / "tornado_app" / "tasks" / "preflight.yml") if "eyewall.tornado.plan" in task
    ]
    written = {**BOARD, **given}
    texts = {key: value for key, value in task["eyewall.tornado.plan"].items() if key != "task_files"}
    arguments = {key: evaluate(value[2:-2], **written) for key, value in texts.items()}
    return str(plugin("action", "plan").plan(**arguments)["generation"])


def test_the_same_input_is_the_same_generation() -> None:
    assert name() == name()
    assert re.fullmatch(r"board-1\.0\.0\+0badcafe-[0-9a-f]{6}", name())


@pytest.mark.parametrize(
    "given",
    [
        {"tornado_app_settings": {"BOARD_DATA": "/elsewhere"}},
        {"tornado_app_secrets": {"BOARD_COOKIE_SECRET": "rotated"}},
        {"tornado_app_drain_timeout": 31},
        {"tornado_app_open_files": 40000},
        {"tornado_app_debug": True},
        {"tornado_app_debug_switches": {"serve_traceback": False}},
        {"tornado_app_production": True},
        {"tornado_app_factory": "", "tornado_app_command": ["-m", "board"]},
        {"tornado_app_fork": True},
        {"tornado_app_server": "gunicorn"},
        {"__tornado_app_preflight": preflight([8000])},
        {"__tornado_app_preflight": preflight([8001, 8002])},
        {"__tornado_app_build": built("1.0.1")},
    ],
    ids=str,
)
def test_whatever_makes_a_process_another_makes_another_generation(given: dict[str, Any]) -> None:
    assert name(**given) != name()


@pytest.mark.parametrize(
    ("words", "run"),
    [
        (["-m", "celery", "-A", "tasks", "flower", "--port={port}"],) * 2,
        (["-m", "hello", "a b", "it's", '"', "100%", "%(process_num)d", "$HOME", "a;b", "\\"],) * 2,
        (["{site}/chat.py"], ["@root@/releases/1.0.0+0badcafe/venv/lib/python3.11/site-packages/chat.py"]),
    ],
)
def test_a_command_is_run_word_by_word(tmp_path: Path, words: list[str], run: list[str]) -> None:
    """supervisord expands %(…)s and then splits as a shell does."""
    (one, _) = processes(tmp_path, tornado_app_factory="", tornado_app_command=words)
    found = shlex.split(one.command)
    assert [word.replace(f"{tmp_path}/root", "@root@") for word in found[-len(run) :]] == run
    assert found[-len(run) - 1 : -len(run)] == ["--no-autoreload"]


def test_fork_mode_is_one_program_with_all_processes(tmp_path: Path) -> None:
    (one,) = processes(tmp_path, tornado_app_fork=True, __tornado_app_preflight={**preflight([9100]), "processes": 4})
    command = shlex.split(one.command)
    assert command[command.index("--processes") + 1] == "4"
    assert command[command.index("--port") + 1] == "9100"


def test_wsgi_is_the_same_frame(tmp_path: Path) -> None:
    found = processes(tmp_path, tornado_app_server="gunicorn", tornado_app_threads=3)
    assert len(found) == 2
    for process in found:
        command = shlex.split(process.command)
        assert "--wsgi" in command
        assert command[command.index("--threads") + 1] == "3"
        assert command[-1] == "board:make_app"
