"""What `status` says: nothing where all is well, else a sentence for each thing with its host and what to do."""

import csv
import http.server
import io
import json
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.host_files import add_generation
from support.product import load_module, plugin, run_module

module = plugin("modules", "host_status")
action = plugin("action", "host_status")
status = plugin("filter", "status")

# ---- What users see ----


class Site(http.server.BaseHTTPRequestHandler):
    """Answers what the path says, and knows one name."""

    def do_GET(self) -> None:
        known = self.headers["Host"] == "www.example.net"
        self.send_response(int(self.path[1:]) if known else 421)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def site() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def entry(port: int, path: str, name: str = "www.example.net") -> dict[str, Any]:
    return {"service": "nginx", "port": port, "name": name, "path": path}


@pytest.mark.parametrize(
    ("path", "name", "says"),
    [
        ("/200", "www.example.net", None),
        ("/302", "www.example.net", None),
        ("/502", "www.example.net", "got 502; expected 200 to 399. No process"),
        ("/503", "www.example.net", "got 503; expected 200 to 399. HAProxy"),
        ("/504", "www.example.net", "SIGUSR1"),
        ("/500", "www.example.net", "See the application's log"),
        ("/200", "other.example.net", "got 421"),
    ],
)
def test_the_site_is_asked_by_name_as_a_user_does(
    site: int, path: str, name: str, says: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    told = run_module(module, capsys, entries=[entry(site, path, name)])
    assert len(told["problems"]) == (says is not None), told
    if says:
        assert says in told["problems"][0]
        assert told["problems"][0].startswith(f"http://{name}{path} on port {site} (nginx): got ")


def test_nobody_listens_or_answers(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (problem,) = run_module(module, capsys, entries=[entry(port, "/")], timeout=0.2)["problems"]
        assert "got no answer (timed out)" in problem
    (problem,) = run_module(module, capsys, entries=[entry(port, "/")])["problems"]
    assert "got no answer (Connection refused); expected 200 to 399. Run site.yml." in problem


# ---- Services ----

ACTIVE = {
    "Id": "nginx.service", "LoadState": "loaded", "ActiveState": "active", "SubState": "running",
    "UnitFileState": "enabled", "Result": "success", "MainPID": "7",
}  # fmt: skip


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        ({}, None),
        ({"UnitFileState": "static"}, None),
        ({"UnitFileState": "disabled"}, "got disabled; expected enabled: a boot would not start it. Run site.yml."),
        ({"ActiveState": "inactive", "SubState": "dead"}, "got inactive (dead); expected active. Run site.yml"),
        ({"ActiveState": "failed", "SubState": "failed", "Result": "exit-code"}, "got failed (failed, exit-code)"),
        ({"LoadState": "masked", "ActiveState": "inactive"}, "systemctl unmask nginx.service"),
        ({"LoadState": "not-found", "ActiveState": "inactive"}, "got no such unit"),
    ],
)
def test_a_service_runs_now_and_at_boot(differs: dict[str, str], says: str | None) -> None:
    problem = module.unit_problem(ACTIVE | differs)
    assert problem is None if says is None else says in problem


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("exit 0", (0, "")),
        ("echo yes", (0, "yes")),
        ("echo '[warn] a' >&2; echo '[emerg] b' >&2; echo 'test failed' >&2; exit 1", (1, "[emerg] b")),
        ("echo a >&2; echo b >&2; exit 3", (3, "b")),
    ],
)
def test_a_configuration_is_checked_by_its_own_program(script: str, told: tuple[int, str]) -> None:
    assert module.run(["sh", "-c", script]) == told
    assert module.run(["/nowhere/nginx"])[0] == 1


def test_a_pid_file_names_the_main_process(tmp_path: Path) -> None:
    file = tmp_path / "nginx.pid"
    assert "got 'No such file or directory'; expected 7" in module.pid_problem(ACTIVE, file)
    file.write_text("")
    assert "got an empty file; expected 7" in module.pid_problem(ACTIVE, file)
    file.write_text("7\n")
    assert module.pid_problem(ACTIVE, file) is None


# ---- The balancer ----


def rows(*states: tuple[str, str, dict[str, str]]) -> str:
    """Return what `show stat` says of hosts in two backends, among its other rows."""
    text = io.StringIO()
    fields = ["# pxname", "svname", "status", "lastchg", "check_status", "check_code", "last_chk", "type"]
    writer = csv.DictWriter(text, fields, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerow({"# pxname": "site", "svname": "FRONTEND", "status": "OPEN", "type": "0"})
    for backend in ("app", "app-once"):
        for name, state, more in states:
            writer.writerow({"# pxname": backend, "svname": name, "status": state, "type": "2", "lastchg": "5", **more})
        writer.writerow({"# pxname": backend, "svname": "BACKEND", "status": "UP", "type": "1"})
    return text.getvalue()


@pytest.mark.parametrize(
    ("states", "says"),
    [
        ([("app1", "UP", {}), ("app2", "UP", {})], []),
        ([("app1", "UP", {}), ("app2", "UP 1/2", {})], []),
        ([("app1", "UP", {})], ["got no host app2"]),
        (
            [("app1", "DOWN", {"check_status": "L4CON", "last_chk": "Connection refused"}), ("app2", "UP", {})],
            ["got DOWN for app1 for 5 s; expected UP; its check says: L4CON Connection refused. See app1."],
        ),
        ([("app1", "MAINT", {}), ("app2", "DRAIN", {})], ["set server app/app1 state ready", "set server app/app2"]),
    ],
)
def test_what_haproxy_thinks_of_each_host(
    tmp_path: Path, states: list[Any], says: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(100) == b"show stat\n"
                connection.sendall(rows(*states).encode())

        thread = threading.Thread(target=answer)
        thread.start()
        told = run_module(module, capsys, balancer_socket=str(path), balancer_hosts={"app": ["app1", "app2"]})
        thread.join()
    assert told["balancer"] == {name: state for name, state, _ in states}
    assert len(told["problems"]) == len(says)
    assert all(words in problem for words, problem in zip(says, told["problems"], strict=True)), told
    path.unlink()
    (problem,) = run_module(module, capsys, balancer_socket=str(path))["problems"]
    assert "got 'No such file or directory'; expected HAProxy to answer there" in problem


def test_of_several_applications_each_host_is_told_with_its_application() -> None:
    text = rows(("app1", "UP", {}), ("app2", "DOWN", {"check_status": "L4TOUT"})).replace("app,", "chat,")
    found = module.balanced(rows(("app1", "UP", {})) + text.partition("\n")[2], ["app", "chat"])
    assert {name: row["status"] for name, row in found.items()} == {
        "app/app1": "UP",
        "chat/app1": "UP",
        "chat/app2": "DOWN",
    }
    wanted = module.named({"app": ["app1", "app2"], "chat": ["app1", "app2"]})
    assert module.balance_problems(found, wanted)[0] == "HAProxy: got no host app/app2; expected it. Run site.yml."


def test_an_application_that_the_inventory_has_no_more_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CLAIMS", tmp_path)
    for name in ("board", "chat"):
        (tmp_path / f"eyewall-app-{name}.conf").touch()
    assert module.left_apps(["board", "chat"]) == []
    assert module.left_apps(None) == [], "a balancer has none"
    (sentence,) = module.left_apps(["board"])
    assert "application chat: got it on this host, and not in site_apps for it" in sentence
    assert "playbooks/remove_app.yml -e app=chat removes it" in sentence


# ---- Space and clocks ----


@pytest.mark.parametrize(
    ("differs", "says"),
    [
        ({}, None),
        ({"bytes_left": 14e6}, "got 14 MB left of 300"),
        ({"bytes": 2e12, "bytes_left": 2e9}, None),
        ({"bytes": 2e12, "bytes_left": 5e8}, "got 500 MB left"),
        ({"inodes_left": 10}, "got 10 inodes left of 1000"),
        ({"inodes": 0, "inodes_left": 0}, None),  # as of btrfs, which has no such limit
        ({"read_only": True}, "got a read-only file system"),
    ],
)
def test_a_file_system_has_space(differs: dict[str, Any], says: str | None) -> None:
    one = {
        "path": "/opt", "bytes": 300e6, "bytes_left": 100e6, "inodes": 1000, "inodes_left": 900, "read_only": False
    }  # fmt: skip
    ints = {name: int(value) if isinstance(value, float) else value for name, value in (one | differs).items()}
    problems = module.space_problems([ints])
    assert len(problems) == (says is not None)
    assert says is None or says in problems[0]


def test_a_file_system_is_looked_at_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (one,) = module.space([str(tmp_path), str(tmp_path / "a"), "/nowhere"])
    assert one["bytes"] == os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize


@pytest.mark.parametrize(
    ("theirs", "ahead"), [(100, 0), (105, 0), (110, 0), (111, 1), (99, -1), (3700, 3590), (-3500, -3600)]
)
def test_clocks_differ_by_what_the_way_does_not_explain(theirs: float, ahead: float) -> None:
    """The host was asked at 100 and its answer was here at 110: a slow machine is no wrong clock."""
    assert action.difference(100, theirs, 110) == ahead
    problems = action.problems(ahead, None)
    assert len(problems) == (abs(ahead) > 2)


def test_a_clock_follows_another() -> None:
    assert action.problems(0, True) == action.problems(0, None) == []
    assert "follows no other" in action.problems(0, False)[0]


# ---- The application ----


@pytest.fixture
def application(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A host whose one process is ready; what app_info says of it after `change` of what it hears."""
    info = load_module("app_info")
    root, sockets, confs = tmp_path / "opt", tmp_path / "run", tmp_path / "conf.d"
    monkeypatch.setitem(info.Layout.boot_damage.__globals__, "program", lambda group: confs / f"{group}.conf")
    for place in (sockets, confs, tmp_path / "logs"):
        place.mkdir()
    for name in ("g1", "g2"):
        place = add_generation(root, name, name)
        (confs / f"{name}.conf").symlink_to(place / "supervisor.conf")
    (root / "current").symlink_to(root / "generations" / "g2")
    tmpfiles = tmp_path / "tmpfiles.conf"
    tmpfiles.write_text(
        f"d {root} 0755 root root -\nd {sockets} 0750 board board -\nd {tmp_path / 'logs'} 0750 - - -\n"
    )
    ready = {
        "state": "ready",
        "port": 8000,
        "generation": "g2",
        "release": "g2",
        "open_files": 9,
        "open_files_limit": 99,
    }
    heard: dict[str, Any] = {
        "answers": {"g2": ready}, "states": {"g2:8000": "RUNNING"}, "strangers": [], "silence": None
    }  # fmt: skip

    def states(_: object) -> dict[str, str]:
        if heard["silence"]:
            raise info.Failure(heard["silence"])
        return dict(heard["states"])

    monkeypatch.setattr(info, "ask", lambda path, _: heard["answers"].get(Path(path).name.partition("-")[0]))
    monkeypatch.setattr(info, "states", states)
    monkeypatch.setattr(info, "strangers", lambda *_: heard["strangers"])

    def look() -> dict[str, Any]:
        return run_module(
            info, capsys, root=str(root), sockets=str(sockets), user="board", logs=str(tmp_path / "logs"),
            directories=str(tmpfiles), boot_files=[str(tmpfiles)],
        )  # fmt: skip

    look.heard, look.place, look.ready = heard, tmp_path, ready  # type: ignore[attr-defined]
    return look


LEFT = {"pid": 17, "account": "board", "command": "./daemon", "ports": [8000], "kind": "left"}
G1 = {"state": "ready", "port": 8000, "generation": "g1", "release": "g1"}


def lock(left: float) -> str:
    clock = load_module("app_info").left.__globals__
    texts = dict.fromkeys(("id", "owner", "controller", "verb", "wanted", "release"), "x")
    numbers = dict.fromkeys(("pid", "pid_started", "started", "expires"), 1)
    return json.dumps({**texts, **numbers, "from": None, "from_release": None, **clock["marks"](left)})


@pytest.mark.parametrize(
    ("breaks", "says"),
    [
        (lambda host: None, []),
        (
            lambda host: host.heard.update(answers={}),
            ["g2:8000: got no answer on its admin socket (supervisord: RUNNING)"],
        ),
        (
            lambda host: host.heard.update(answers={}, states={"g2:8000": "FATAL"}),
            ["(supervisord: FATAL); expected ready; see"],
        ),
        (
            lambda host: host.heard.update(answers={}, silence="supervisord does not answer."),
            ["(supervisord: unknown)"],
        ),
        (lambda host: host.ready.update(state="draining"), ["g2:8000: got draining; expected ready"]),
        (lambda host: host.ready.update(open_files=98), ["got 98 open files of 99"]),
        (
            lambda host: host.heard["answers"].update(g1=G1),
            ["g1:8000: got ready; expected g2, which is what a boot starts"],
        ),
        (lambda host: host.heard["states"].update({"g1:8000": "BACKOFF"}), ["g1:8000: got BACKOFF; expected g2"]),
        (lambda host: host.heard["states"].update({"g1:8000": "STOPPED"}), []),
        (
            lambda host: host.heard.update(strangers=[LEFT]),
            ["17 of board ('./daemon'): got a process that supervisord does"],
        ),
        (
            lambda host: host.heard.update(strangers=[LEFT | {"kind": "foreign"}]),
            ["nothing is deployed while it is there"],
        ),
        (lambda host: host.heard.update(strangers=[LEFT | {"kind": "detached"}]), []),
        (lambda host: (host.place / "opt/current").unlink(), ["opt/current: got no link"]),
        (lambda host: (host.place / "conf.d/g2.conf").unlink(), ["g2.conf: got no link"]),
        (
            lambda host: (host.place / "opt/generations/g2/settings.json").write_text(""),
            ["settings.json: got an empty file"],
        ),
        (lambda host: (host.place / "logs").rmdir(), ["logs: got no directory; expected it"]),
        (lambda host: (host.heard.update(answers={}), (host.place / "run").rmdir()), ["run: got no directory"]),
        (
            lambda host: (host.place / "tmpfiles.conf").unlink(),
            ["tmpfiles.conf: got no file; expected it, or a boot does"],
        ),
        (
            lambda host: (host.place / "opt/deploy.json").write_text(lock(-1)),
            ["deploy.json: got a deploy of x that did not"],
        ),
        (
            lambda host: (host.heard["answers"].update(g1=G1), (host.place / "opt/deploy.json").write_text(lock(60))),
            [],  # a handover
        ),
    ],
)
def test_what_is_not_well_with_the_application_is_a_sentence(application: Any, breaks: Any, says: list[str]) -> None:
    (application.place / "opt/current").unlink()
    (application.place / "opt/current").symlink_to("generations/g2")
    os.utime(application.place / "opt/generations/g2/generation.json")
    breaks(application)
    told = application()
    assert len(told["problems"]) == len(says), told["problems"]
    for words, problem in zip(says, told["problems"], strict=True):
        assert words in problem
        assert problem.endswith(".")


# ---- All of it together ----

HOST: dict[str, Any] = {
    "entries": [{"service": "nginx", "status": 200, "why": "", "seconds": 0.0051}], "services": {"nginx": "active"},
    "balancer": None, "space": [{"bytes": 100, "bytes_left": 40, "inodes": 0, "inodes_left": 0}],
    "memory": {"bytes": 100, "bytes_left": 62}, "clock": 0.0, "problems": [],
}  # fmt: skip
INFO: dict[str, Any] = {
    "processes": [], "strangers": [], "deploys": [], "lock": None, "silence": "", "problems": [],
    "generations": [{"release": "1.0", "current": True}],
}  # fmt: skip


def fleet(**changes: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the variables of two application hosts and a balancer; `changes` are of what one of them registered."""
    found: dict[str, dict[str, Any]] = {
        "app1": {"__host_status": HOST, "site_infos": {"board": INFO}},
        "app2": {"__host_status": HOST, "site_infos": {"board": INFO}},
        "lb1": {"__host_status": HOST | {"balancer": {"app1": "UP", "app2": "UP"}}},
    }
    for host, change in changes.items():
        found[host] = {**found[host], **change}
    return found


def test_a_healthy_site_is_a_line_for_each_host() -> None:
    hosts = fleet()
    assert status.host_table(list(hosts), hosts).splitlines() == [
        "host  entry point         services  HAProxy says      disk left  memory left  clock",
        "app1  nginx: 200 in 5 ms  nginx     -                 40 %       62 %         as here",
        "app2  nginx: 200 in 5 ms  nginx     -                 40 %       62 %         as here",
        "lb1   nginx: 200 in 5 ms  nginx     app1 UP, app2 UP  40 %       62 %         as here",
    ]
    assert status.problem_list(list(hosts), hosts) == ""


UNREACHABLE = {"unreachable": True, "msg": "Task failed: Failed to connect: \n No route to host."}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"app1": {"__host_status": HOST | {"problems": ["A."]}, "site_infos": {"board": INFO | {"problems": ["B."]}}}},
         ["app1: A.", "app1: B."]),
        ({host: {"__host_status": HOST | {"problems": ["A."]}} for host in ("app1", "lb1")}, ["app1, lb1: A."]),
        ({"app1": {"__host_status": UNREACHABLE, "site_infos": {"board": UNREACHABLE}}},
         ["app1: got no answer to Ansible (Failed to connect: No route to host); expected one. See the host's console, "
          "and its way here."]),
        ({"app1": {"site_infos": {"board": {"msg": "No module."}}}},
         ["app1: the application board could not be asked: No module."]),
        ({"app1": {"__host_status": HOST | {"services": {"supervisor": "active"}},
                   "site_infos": {"board": INFO | {"silence": "S."}}}},
         ["app1: S. Nothing can start or stop a process. Run site.yml."]),
        # of a service that is down, systemd has said it
        ({"app1": {"__host_status": HOST | {"services": {"supervisor": "failed"}},
                   "site_infos": {"board": INFO | {"silence": "S."}}}}, []),
        ({"app2": {"site_infos": {"board": INFO | {"generations": [{"release": "2.0", "current": True}]}}}},
         ["all: releases of board: got app1 1.0; app2 2.0; expected one. Run deploy.yml."]),
        ({"app2": {"site_infos": {"board": INFO | {"generations": [{"release": "2.0", "current": True}],
                                                 "lock": {"owner": "x"}}}}}, []),
    ],
)  # fmt: skip
def test_each_thing_is_told_once_with_its_hosts(changes: dict[str, Any], says: list[str]) -> None:
    hosts = fleet(**changes)
    assert status.problem_list(list(hosts), hosts).splitlines() == says
    for shown in (status.host_table, status.process_table, status.stranger_table):
        shown(list(hosts), hosts)  # whatever is missing
