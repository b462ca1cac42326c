"""What cannot work on a host is refused before anything is changed, with a sentence for each mistake."""

import json
import os
import platform
import pwd
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from support import REPOSITORY
from support.host_files import add_environment, add_release
from support.product import ROLES, evaluate, load_module, load_yaml, options_of, run_module

USER = pwd.getpwuid(os.getuid()).pw_name  # whose the listeners of these tests are
NO_ACCOUNT = "board-that-nobody-made"
COMMENT = "Eyewall application board"


@pytest.fixture(scope="module")
def preflight() -> ModuleType:
    return load_module("tornado_app_preflight")


@pytest.fixture
def look(
    preflight: ModuleType,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    free_ports: Callable[[int], list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., dict[str, Any]]:
    """Run the module, with arguments that are right but for those given."""
    monkeypatch.setattr(preflight, "PROGRAMS", tmp_path)
    port = free_ports(2)[0]

    def run(**given: Any) -> dict[str, Any]:
        right = {
            "name": "board", "user": NO_ACCOUNT, "comment": COMMENT, "python": sys.executable,
            "processes": "2", "port": str(port),
            **{name: str(tmp_path / name) for name in ("root", "data", "logs", "sockets")},
            "directories_file": str(tmp_path / "tmpfiles.conf"),
            "factory": "board:make_app",
            "reserved_ports": [80], "settings": {"BOARD_DATA": "/x"}, "secrets": {"KEY": "s3cret-of-the-tests"},
            "paths": {"tornado_app_health_path": ["/health"], "tornado_app_smoke_paths": []}, "serial": ["1", "25%", "100%"],
        }  # fmt: skip
        return run_module(preflight, capsys, **(right | given))

    return run


def test_what_is_right_passes_and_is_described(look: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    for name in ("abcdef", "abcd"):
        add_environment(tmp_path / "root", name)
    add_release(tmp_path / "root", "1.0", "abcd")
    for kind, name in (("releases", "unfinished"), ("releases", ".1.1"), ("environments", "unfinished")):
        (tmp_path / "root" / kind / name).mkdir()
    (add_environment(tmp_path / "root", "damaged") / "environment.json").write_text("")
    (tmp_path / "tmpfiles.conf").write_text(f"# as the role writes it\nd {tmp_path}/root 0755 root root -\n")
    result = look()
    assert result["changed"] is False
    assert len(result["ports"]) == 2
    assert result["ports"][1] == result["ports"][0] + 1
    assert result["target"]["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert result["target"]["python_full"] == platform.python_version()
    assert result["target"]["machine"] == os.uname().machine
    assert result["target"]["glibc"].split(".")[0] == "2"
    assert result["releases"] == ["1.0"]
    assert result["environments"] == ["abcd", "abcdef"]
    assert set(result["kernel"]) == {"net.core.somaxconn", "net.ipv4.tcp_migrate_req"}


def program(place: Path, user: str, start: int, processes: int = 2) -> None:
    """What supervisord was told of a generation of another application."""
    text = f"[program:{user}-1]\nnumprocs={processes}\nnumprocs_start={start}\nuser={user}\n"
    (place / f"eyewall-app-{user}-1.conf").write_text(text)


@pytest.mark.parametrize(
    ("others", "planned", "first"),
    [
        ([], [], 8000),
        ([8000], [], 8100),
        ([8100], [], 8000),
        ([8000, 8100], [], 8200),
        ([8000], [8100, 8101], 8200),
        ([8050], [], 8100),
    ],
)
def test_an_application_has_a_hundred_ports_that_no_other_one_has(
    look: Callable[..., dict[str, Any]], tmp_path: Path, others: list[int], planned: list[int], first: int
) -> None:
    for number, start in enumerate(others):
        program(tmp_path, f"other{number}", start)
    assert look(port="auto", processes="2", other_ports=planned)["ports"] == [first, first + 1]


def test_what_is_damaged_of_another_application_stands_in_nobodys_way(
    look: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "eyewall-app-gone-1.conf").symlink_to("/nowhere/supervisor.conf")
    (tmp_path / "eyewall-app-garbled-1.conf").write_bytes(b"\xff\x00numprocs_start=no\nuser=x\n")
    assert look(port="auto", processes="1")["ports"] == [8000]


def test_it_keeps_the_ports_that_it_has(look: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    """Also where others came before it, or went."""
    root = tmp_path / "root"
    generation = root / "generations" / "board-1"
    generation.mkdir(parents=True)
    manifest = {"generation": "board-1", "release": "1", "ports": [8200, 8201]}
    (generation / "generation.json").write_text(json.dumps(manifest))
    (root / "current").symlink_to("generations/board-1")
    program(tmp_path, "other", 8000)
    (tmp_path / "tmpfiles.conf").write_text(f"d {root} 0755 root root -\n")
    assert look(port="auto", processes="3", root=str(root))["ports"] == [8200, 8201, 8202]
    assert look(port="9000", processes="1", root=str(root))["ports"] == [9000], "what is asked for goes before it"


@pytest.mark.parametrize("port", ["http", "80a", "-1", "123456"])
def test_a_port_that_is_none(look: Callable[..., dict[str, Any]], port: str) -> None:
    assert f"tornado_app_port: got '{port}'; expected auto, or a port from 1024 to 65535." in look(port=port)["msg"]


def test_all_applications_together_fit_into_the_host(
    look: Callable[..., dict[str, Any]], preflight: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    memory = tmp_path / "meminfo"
    memory.write_text("MemTotal:       102400 kB\nMemAvailable:   1 kB\n")
    monkeypatch.setattr(preflight, "MEMINFO", memory)
    monkeypatch.setattr(preflight, "read", lambda name: 200_000 if name == "fs.file-max" else None)
    program(tmp_path, "other", 8000, 3)
    assert "msg" not in look(processes="2", port="auto", open_files=40_000)
    said = look(processes="3", port="auto", open_files=40_000)["msg"]
    assert (
        "got 3, which makes 6 processes of all applications on this host, and 240000 open files; expected 200000"
        in said
    )
    assert "6 processes of all applications on this host; expected 5 or less, because an idle one takes 20 MB" in said


def test_auto_is_one_process_per_cpu(look: Callable[..., dict[str, Any]]) -> None:
    assert len(look(processes="auto")["ports"]) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5", "", "10000", "07", "AUTO"])
def test_processes_that_are_no_number(look: Callable[..., dict[str, Any]], asked: str) -> None:
    result = look(processes=asked)
    assert f"tornado_app_processes: got '{asked}'; expected 'auto' (one per CPU, here " in result["msg"]
    assert "or 1 to 9999." in result["msg"]
    assert result["msg"].startswith(f"{socket.gethostname()}: ")


@pytest.mark.parametrize(("asked", "number"), [("1", 1), ("9999", 9999), ("auto", 6)])
def test_numbers_of_processes(preflight: ModuleType, asked: str, number: int) -> None:
    assert preflight.number_of_processes(asked, 6) == number


@pytest.mark.parametrize("port", [0, 80, 1023, 65535])
def test_ports_outside_of_what_is_allowed(look: Callable[..., dict[str, Any]], port: int) -> None:
    message = look(port=port)["msg"]
    assert f"tornado_app_port: got {port}, which makes the ports {port} to {port + 1} of 2 processes" in message
    assert "expected ports from 1024 to 65535." in message


@pytest.mark.parametrize("reach", [0, -1], ids=["inside", "the last one reaches in"])
def test_ports_of_outgoing_connections(look: Callable[..., dict[str, Any]], reach: int) -> None:
    low, high = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    message = look(port=int(low) + reach)["msg"]
    assert f"tornado_app_port: got {int(low) + reach}," in message
    assert f"expected ports outside {low} to {high}, which outgoing connections use here" in message


def test_ports_of_another_service(look: Callable[..., dict[str, Any]]) -> None:
    first = look()["ports"][0]
    message = look(reserved_ports=[80, first + 1])["msg"]
    assert f"tornado_app_port: got {first}" in message
    assert f"; expected free ports, but {first + 1} is another service's of this site." in message
    assert f"; {first} is another" not in message


@pytest.fixture
def listener(look: Callable[..., dict[str, Any]]) -> Iterator[int]:
    """Return the second port of the application, taken by this very process."""
    port = look()["ports"][1]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        yield port


def test_a_port_that_is_taken_and_by_whom(look: Callable[..., dict[str, Any]], listener: int) -> None:
    message = look()["msg"]
    assert f", but {listener} is taken by {os.getpid()} of {USER} ('" in message
    assert re.search(r", since \d{4}-\d\d-\d\dT[\d:]{8}Z\)\.", message), message


def test_a_connection_that_is_no_listener_takes_no_port(preflight: ModuleType, listener: int) -> None:
    with socket.create_connection(("127.0.0.1", listener)) as connection:
        found = {one.port for one in preflight.listeners()}
        assert listener in found
        assert connection.getsockname()[1] not in found


def test_a_port_of_the_applications_own_older_process_is_free(
    look: Callable[..., dict[str, Any]], listener: int
) -> None:
    assert "is taken by" not in look(user=USER).get("msg", "")
    # for another application's account it is taken, and for one that is not made yet
    for other in ("nobody", NO_ACCOUNT):
        assert f", but {listener} is taken by " in look(user=other)["msg"]
    # reserved is reserved, whoever has it
    message = look(user=USER, reserved_ports=[listener])["msg"]
    assert f"; expected free ports, but {listener} is another service's of this site." in message
    assert "is taken by" not in message


def test_whose_a_listener_is(preflight: ModuleType, listener: int) -> None:
    (found,) = [one for one in preflight.listeners() if one.port == listener]
    assert found.account == os.getuid()
    assert preflight.port_mistakes([listener], [], found.account) == []
    for other in (found.account + 1, None):
        (mistake,) = preflight.port_mistakes([listener], [], other)
        assert f"; expected free ports, but {listener} is taken by {preflight.holder(found)}." in mistake


def test_a_holder_that_cannot_be_seen_is_named_by_its_account(preflight: ModuleType, listener: int) -> None:
    (found,) = [one for one in preflight.listeners() if one.port == listener]
    nobodys = found._replace(inode="0")  # the kernel gives none of this number
    assert preflight.holder(nobodys) == f"a process of {USER}"
    nobodys_uid = next(uid for uid in range(60000, 64000) if uid not in {entry.pw_uid for entry in pwd.getpwall()})
    assert preflight.holder(nobodys._replace(account=nobodys_uid)) == f"a process of {nobodys_uid}"


def test_an_account_before_its_first_run_has_no_number(preflight: ModuleType) -> None:
    assert preflight.account(USER) == os.getuid()
    assert preflight.account(NO_ACCOUNT) is None


def test_debug_with_several_processes(look: Callable[..., dict[str, Any]]) -> None:
    message = look(debug=True, processes="3")["msg"]
    assert "tornado_app_debug: got true with 3 processes (tornado_app_processes: 3); expected 1 process" in message
    assert "msg" not in look(debug=True, processes="1")
    message = look(debug_switches={"autoreload": True}, processes="3")["msg"]
    assert "tornado_app_debug_switches.autoreload: got true with 3 processes" in message
    assert "msg" not in look(debug_switches={"autoreload": True}, processes="1")
    assert "msg" not in look(debug_switches={"serve_traceback": True}, processes="3")


def test_debug_is_refused_where_users_are(look: Callable[..., dict[str, Any]]) -> None:
    given = {"processes": "1", "debug": True, "debug_switches": {"serve_traceback": True, "autoreload": False}}
    assert "msg" not in look(**given)
    message = look(**given, production=True)["msg"]
    for name in ("tornado_app_debug", "tornado_app_debug_switches.serve_traceback"):
        assert f"{name}: got true; expected false, because tornado_app_production is true." in message
    assert "autoreload" not in message
    message = look(debug_switches={"static_hash_cache": False}, production=True)["msg"]
    assert "tornado_app_debug_switches.static_hash_cache: got false;" in message
    assert "expected true, because tornado_app_production is true." in message
    assert "msg" not in look(debug_switches={"autoreload": False, "static_hash_cache": True}, production=True)


def test_a_switch_that_is_none(look: Callable[..., dict[str, Any]]) -> None:
    assert "autorelaod" in look(debug_switches={"autorelaod": False})["msg"]
    assert "serve_traceback" in look(debug_switches={"serve_traceback": "perhaps"})["msg"]


def test_production_is_marked_in_its_inventory() -> None:
    inventory = REPOSITORY / "inventory" / "production" / "group_vars" / "all" / "apps.yml"
    assert yaml.safe_load(inventory.read_text())["site_apps"]["board"]["production"] is True


@pytest.mark.parametrize("name", ["Board", "1board", "", "board_x", "a" * 25, "-x", "böard", "board\n"])
def test_names_that_are_none(look: Callable[..., dict[str, Any]], name: str) -> None:
    assert f"tornado_app_name: got '{name}'; expected 1 to 24 lowercase letters" in look(name=name)["msg"]


@pytest.mark.parametrize("name", ["1A", "A-B", "", "A B", "A=B", "Ä", 8])
def test_settings_with_a_name_that_is_none(look: Callable[..., dict[str, Any]], name: object) -> None:
    wanted = f"tornado_app_settings: got the name '{name}'; expected letters, digits and underscores"
    assert wanted in look(settings={name: "x"})["msg"]


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        ("[first, second]", "a list"), ("{a: 1}", "a mapping"), ("null", "nothing"), ("~", "nothing"), ("yes", "true or false"),
        ("8000", "a number"), ("1.10", "a number"), ("9:30", "a number"), ("0640", "a number"), ("1e3", None),
        ("'1.10'", None), ("'9:30'", None), ("''", None), ("yes please", None),
    ],
)  # fmt: skip
def test_what_yaml_changes_is_refused_and_a_string_is_taken_as_it_is(
    look: Callable[..., dict[str, Any]], written: str, kind: str | None
) -> None:
    value = yaml.safe_load(written)
    for variable in ("tornado_app_settings", "tornado_app_secrets"):
        if variable == "tornado_app_secrets" and value == "":
            continue
        message = look(**{variable.removeprefix("tornado_app_"): {"SIZE": value}}).get("msg", "")
        assert (f"{variable}.SIZE: got {kind}; expected a string. Put the value in quotes." in message) == bool(kind), (
            message
        )
        assert not kind or str(value) not in message.partition(f"{variable}.SIZE")[2]


@pytest.mark.parametrize("value", ["", "CHANGE-ME"])
def test_secrets_that_are_none(look: Callable[..., dict[str, Any]], value: str) -> None:
    message = look(secrets={"KEY": value, "OTHER": "right"})["msg"]
    assert "tornado_app_secrets: got nothing or the example's placeholder for KEY" in message
    assert "OTHER" not in message


@pytest.mark.parametrize("path", ["", "health", "http://site/health", "/a b", "/ä", "/a\n"])
@pytest.mark.parametrize("variable", ["tornado_app_health_path", "tornado_app_smoke_paths"])
def test_paths_that_are_none(look: Callable[..., dict[str, Any]], variable: str, path: str) -> None:
    message = look(paths={variable: ["/", path]})["msg"]
    assert f"{variable}: got '{path}'; expected paths on the site, as in /health." in message
    assert "has '/'" not in message


@pytest.mark.parametrize("host", ["~^.*$", "*.example.com", ".example.com", "", "a b", "www.example.com/"])
def test_a_pattern_is_no_name_to_ask_by(look: Callable[..., dict[str, Any]], host: str) -> None:
    message = look(health_host=host)["msg"]
    assert f"tornado_app_health_host: got '{host}'; expected a whole host name, as in www.example.com." in message
    assert "nginx_server_name" in message


@pytest.mark.parametrize("host", ["localhost", "www.example.com", "www.example.com:8080", "192.0.2.1", "[::1]:80"])
def test_names_to_ask_by(look: Callable[..., dict[str, Any]], host: str) -> None:
    assert "msg" not in look(health_host=host)


@pytest.mark.parametrize(
    ("names", "asked"),
    [
        (None, "localhost"),
        ([], "localhost"),
        (["_"], "localhost"),
        (["b.example.com", "a.example.com"], "b.example.com"),
    ],
)
def test_which_name_that_is(names: list[str] | None, asked: str) -> None:
    given = {} if names is None else {"nginx_server_name": names}
    assert evaluate("tornado_app_health_host", **given) == asked


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("tornado_app_drain_timeout", -5, "0 to 86400"),
        ("tornado_app_parallel_processes", 0, "1 to 9999"),
        ("tornado_app_start_timeout", "0", "1 to 86400"),
        ("tornado_app_backlog", 2**31, "1 to 2147483647"),
        ("tornado_app_min_ready_seconds", "a while", "0 to 86400"),
    ],
)
def test_numbers_out_of_their_limits(
    look: Callable[..., dict[str, Any]], name: str, value: int | str, limits: str
) -> None:
    assert f"{name}: got {value}; expected {limits}." in look(numbers={name: value})["msg"]


def test_every_number_of_the_role_is_looked_at_and_its_default_is_right(
    look: Callable[..., dict[str, Any]], preflight: ModuleType
) -> None:
    numbers = {name for name, option in options_of("tornado_app").items() if option["type"] == "int"}
    # looked at by themselves, or by the runner's rules
    numbers -= {"tornado_app_port", "tornado_app_open_files", "tornado_app_keep"}
    numbers -= {name for name in numbers if "0 is no limit" in str(options_of("tornado_app")[name]["description"])}
    asked = load_yaml(ROLES / "tornado_app" / "tasks" / "preflight.yml")[0]["eyewall.tornado.tornado_app_preflight"][
        "numbers"
    ]
    assert set(asked) == set(preflight.LIMITS) == numbers
    assert asked == {name: f"{{{{ {name} }}}}" for name in asked}
    assert "msg" not in look(numbers={name: options_of("tornado_app")[name]["default"] for name in asked})


def test_paths_may_be_whatever_a_request_has(look: Callable[..., dict[str, Any]]) -> None:
    assert "msg" not in look(paths={"tornado_app_smoke_paths": ["/", "/a-b/c.d?e=f&g=%20", "//x", "/~a"]})


@pytest.mark.parametrize("size", ["0", "-1", "07", "1.5", "all", "", "%", "0%", "101%", "1000%", "2 %", "1\n"])
def test_sizes_of_batches_that_are_none(look: Callable[..., dict[str, Any]], size: str) -> None:
    message = look(serial=["1", size])["msg"]
    assert (
        f"tornado_app_serial: got '{size}'; expected numbers of hosts from 1, or shares from '1%' to '100%'." in message
    )


@pytest.mark.parametrize("sizes", [["1"], [2, "10%"], ["1%", "99%", "100%"], ["1000"]], ids=str)
def test_sizes_of_batches(look: Callable[..., dict[str, Any]], sizes: list[str | int]) -> None:
    assert "msg" not in look(serial=sizes)


def test_no_size_of_batches_at_all(look: Callable[..., dict[str, Any]]) -> None:
    assert "tornado_app_serial: got an empty list; expected numbers of hosts" in look(serial=[])["msg"]


def test_no_secret_is_in_the_result(look: Callable[..., dict[str, Any]]) -> None:
    assert "hunter2" not in str(look(secrets={"1": "hunter2-hunter2"}))


def test_an_interpreter_that_is_not_there(look: Callable[..., dict[str, Any]]) -> None:
    assert (
        "tornado_app_python: got '/usr/bin/python9'; expected the absolute path"
        in look(python="/usr/bin/python9")["msg"]
    )


def test_an_interpreter_on_another_c_library(look: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.12.1 x86_64 -\n")
    other.chmod(0o755)
    assert "on another C library; expected glibc" in look(python=str(other))["msg"]


def test_an_interpreter_that_the_application_may_write_is_not_run(
    look: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    """Root would run it, here and while a release is installed."""
    (tmp_path / "data").mkdir()
    python, ran = tmp_path / "data" / "python", tmp_path / "ran"
    python.write_text(f'#!/bin/sh\ntouch {ran}\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    message = look(python=str(python))["msg"]
    assert (
        f"tornado_app_python: got '{python}'; expected a path that the application, which may write {tmp_path}/data,"
        in message
    )
    assert not ran.exists()
    assert "msg" not in look(python=str(python), data=str(tmp_path / "elsewhere")), "the control"
    assert ran.exists()


def test_all_mistakes_are_reported_together(look: Callable[..., dict[str, Any]]) -> None:
    wrong = {"paths": {"tornado_app_health_path": ["x"]}, "serial": ["x"], "secrets": {"KEY": ""}}
    message = look(name="Board", processes="0", port=80, python="/nowhere", **wrong)["msg"]
    for variable in ("name", "processes", "port", "secrets", "python", "health_path", "serial"):
        assert f"tornado_app_{variable}" in message


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"factory": "board"}, "tornado_app_factory: got 'board'; expected package.module:factory."),
        ({"factory": ""}, "tornado_app_factory, tornado_app_command: got neither; expected one of the two."),
        (
            {"command": ["-m", "chat"]},
            "tornado_app_factory, tornado_app_command: got 'board:make_app' and ['-m', 'chat']; expected one of the two.",
        ),
        *(
            (
                {"factory": "", "command": words},
                f"tornado_app_command: got '{words[0]}' as its first word; expected '-m' and a module, '{{site}}/' and a file",
            )
            for words in (["-m"], ["/usr/bin/celery"], ["./chat.py"], [""])
        ),
        *(
            (
                {"factory": "", "command": ["-m", "chat", word]},
                f"tornado_app_command: got {word!r}; expected words on",
            )
            for word in ("a ;b", "a #b", "a\nb", "\x00")
        ),
        (
            {"server": "gunicorn", "factory": "", "command": ["-m", "chat"]},
            "tornado_app_server: gunicorn, tornado_app_command: got both; expected one of the two.",
        ),
        ({"server": "gunicorn", "fork": True}, "tornado_app_server: gunicorn, tornado_app_fork: got both"),
        *(
            ({**debug, **mode, "processes": "1"}, f"{name}, {other}: got both")
            for name, debug in (
                ("tornado_app_debug", {"debug": True}),
                ("tornado_app_debug_switches.autoreload", {"debug_switches": {"autoreload": True}}),
            )
            for other, mode in (
                ("tornado_app_fork", {"fork": True}),
                ("tornado_app_server: gunicorn", {"server": "gunicorn"}),
                ("tornado_app_command", {"factory": "", "command": ["-m", "chat"]}),
            )
        ),
    ],
)
def test_what_is_run_and_how(look: Callable[..., dict[str, Any]], given: dict[str, Any], sentence: str) -> None:
    result = look(**given)
    assert result["failed"] is True
    assert sentence in result["msg"]


@pytest.mark.parametrize(
    "words", [["-m", "chat", "--port={port}", "a;b", "#", "%"], ["{site}/chat.py"], ["thumbor", "-p"]]
)
def test_commands(look: Callable[..., dict[str, Any]], words: list[str]) -> None:
    assert "msg" not in look(factory="", command=words)


def test_fork_mode_has_one_port(look: Callable[..., dict[str, Any]]) -> None:
    found = look(fork=True, processes="4")
    assert (len(found["ports"]), found["processes"]) == (1, 4)


def test_a_message_says_what_its_variables_are_called_where_they_are_written(
    look: Callable[..., dict[str, Any]],
) -> None:
    said = look(processes="0", declared_in="site_apps.board")["msg"]
    assert "tornado_app_processes: got '0'; expected 'auto'" in said
    assert said.endswith("(tornado_app_x is the key x of site_apps.board.)")
    assert "is the key" not in look(processes="0")["msg"]
