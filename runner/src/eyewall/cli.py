"""The command line."""

import argparse
import asyncio
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from eyewall.debug import DEBUG, forbid_autoreload, watch, watch_settings
from eyewall.errors import Refusal
from eyewall.group import Group
from eyewall.limits import raise_open_files
from eyewall.listen import UNIX, bind
from eyewall.log import log_to_stderr
from eyewall.process import Options, Process, serve_factory
from eyewall.program import Program
from eyewall.proxies import LOOPBACK, parse_trusted
from eyewall.settings import apply_settings, read_settings
from eyewall.signals import Signals
from eyewall.target import TARGET
from eyewall.watchdog import dump_stacks_on_demand, limit_exit

USAGE_ERROR = 2
THREADS = 8
GUNICORN = 27  # the first major version whose names eyewall.wsgi_server knows
LEVELS = ("debug", "info", "warning", "error")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{message} (--help lists the options)")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of ``python -m eyewall``."""
    parser = _Parser(
        prog="python -m eyewall",
        usage="python -m eyewall --port N [options] (package.module:factory | program.py … | -m package …)",
        description="Run a Tornado application, or a program with a Tornado server, as one production process.",
        epilog="What follows the program is its own; {port} in it becomes the port. The runner decides where the "
        "program listens. SIGTERM and SIGINT drain; then the program's own handlers have their turn.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "target",
        nargs=argparse.REMAINDER,
        metavar="package.module:factory | program.py …",
        help="a factory returns the tornado.web.Application (may be a coroutine function), or is one itself; "
        "a program is any file that Python runs, with its own arguments",
    )
    add("-m", dest="module", nargs=argparse.REMAINDER, metavar="package", help="run a program by its module's name")
    add(
        "--port", type=_port, required=True, metavar="N", help="TCP port to listen on, 1 to 65535; the process's number"
    )
    add(
        "--address",
        type=_address,
        default="127.0.0.1",
        help="address to listen on, or unix:/absolute/path: a Unix socket instead of the port (default: %(default)s)",
    )
    add(
        "--admin",
        type=Path,
        metavar="PATH",
        help="Unix socket for health, readiness, status and metrics (default: none)",
    )
    add(
        "--settings",
        type=Path,
        metavar="FILE",
        help="JSON object of strings, set as environment variables before the target is imported; "
        "must not be open to other users",
    )
    add("--release", default="", metavar="NAME", help="reported by the admin server; set as RELEASE")
    add("--generation", default="", metavar="NAME", help="reported by the admin server")
    add(
        "--trusted",
        action="append",
        type=_trusted,
        metavar="ADDRESS",
        help="address or network (10.0.0.0/8) of a proxy whose X-Real-Ip, X-Forwarded-For, X-Scheme, "
        f"X-Forwarded-Proto and X-Request-Id are believed; repeatable (default: {', '.join(LOOPBACK)})",
    )
    add(
        "--drain",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long connections may take to end after SIGTERM (default: %(default)g)",
    )
    add(
        "--watchdog",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="die, with all stacks on stderr, when the loop is blocked for so long; 0: never (default: %(default)g)",
    )
    add(
        "--open-files",
        type=_number,
        default=0,
        metavar="N",
        help="open files this process must be able to have; 0: do not check (default: %(default)s)",
    )
    add(
        "--backlog",
        type=_positive,
        default=4096,
        metavar="N",
        help="connections that may wait to be accepted (default: %(default)s)",
    )
    add(
        "--processes",
        type=_number,
        default=1,
        metavar="N",
        help="fork so many processes that share the port; 0: one per CPU (default: %(default)s)",
    )
    add(
        "--start",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long a program may take until it listens (default: %(default)g)",
    )
    add(
        "--wsgi",
        action="store_true",
        help="serve the factory's application under gunicorn, with eyewall.wsgi; "
        "--no-uvloop and --start say nothing then",
    )
    add("--threads", type=_positive, metavar="N", help="requests that --wsgi answers at a time (default: 8)")
    add("--no-uvloop", action="store_true", help="use asyncio's own event loop")
    add(
        "--debug",
        action="store_true",
        help="for development: autoreload, serve_traceback, no compiled_template_cache, "
        "no static_hash_cache, each unless the application sets it",
    )
    for name in DEBUG:
        add(
            f"--{name.replace('_', '-')}",
            action=argparse.BooleanOptionalAction,
            help=f"the application's setting {name}, whatever it and --debug say",
        )
    add(
        "--log-level",
        choices=LEVELS,
        default="info",
        help="least severe messages to log (default: %(default)s)",
    )
    return parser  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 after a drain, 2 with a sentence on stderr if it could not start."""
    # Before anything slow: the orphan rule compares with the parent that started us.
    parent = os.getppid()
    group: Group | None = None
    process: Process | None = None
    try:
        given = make_parser().parse_args(arguments)
        named = _named(given)
        factory = _is_factory(given)
        _check_wsgi(given, factory)
        watch_settings(given.settings)
        settings = {} if given.settings is None else read_settings(given.settings)
        raise_open_files(given.open_files)
        apply_settings(settings, given.port, given.release)
        log_to_stderr(given.port, given.log_level)
        dump_stacks_on_demand()
        switches = {name: value for name in DEBUG if (value := getattr(given, name)) is not None}
        if switches.get("autoreload") is False:
            forbid_autoreload()
        options = Options(
            target=named,
            port=given.port,
            address=given.address,
            admin=given.admin and given.admin.absolute(),
            release=given.release,
            generation=given.generation,
            trusted=tuple(given.trusted or LOOPBACK),
            drain=given.drain,
            watchdog=given.watchdog,
            backlog=given.backlog,
            debug=given.debug,
            switches=switches,
        )
        if given.wsgi:
            return _serve_wsgi(options, given.threads or THREADS, parent)
        signals = Signals()
        with ExitStack() as at_exit:
            if given.processes != 1:
                sockets = bind(options.address, options.port, options.backlog, at_exit)
                group = Group(given.processes, sockets, signals, parent)
                group.fork()
                at_exit.pop_all()  # the parent's
            process = Process(options, parent, signals, group)
            if factory:
                _run_factory(process, given.no_uvloop)
                return 0
            if not given.no_uvloop:
                asyncio.set_event_loop_policy(_uvloop().EventLoopPolicy())
            return Program(process, given.module or given.target, given.module is not None, given.start).run()
    except Refusal as refusal:
        # A program may have made a group of its own.
        group = process.group if process is not None else group
        if group is None or group.refuse():
            if refusal.__cause__ is not None:
                traceback.print_exception(refusal.__cause__)
                watch(refusal.__cause__)
            sys.stderr.write(f"eyewall: {refusal}\n")
        return USAGE_ERROR


def _run_factory(process: Process, no_uvloop: bool) -> None:
    with asyncio.Runner(loop_factory=None if no_uvloop else _uvloop().new_event_loop) as runner:
        try:
            runner.run(serve_factory(process))
        finally:
            limit_exit()


def _named(given: argparse.Namespace) -> str:
    """Name what is to be run, as its user did."""
    if given.module is not None:
        if not given.module or given.target:
            raise Refusal("-m: a package or module is wanted, as in -m package")
        return f"-m {given.module[0]}"
    if not given.target:
        raise Refusal("nothing to run is named; wanted is package.module:factory, program.py or -m package")
    return str(given.target[0])


def _is_factory(given: argparse.Namespace) -> bool:
    named = _named(given)
    looks_like_file = os.sep in named or named.endswith(".py") or Path(named).exists()
    if given.module is not None or (looks_like_file and not TARGET.fullmatch(named)):
        if given.debug:
            raise Refusal(f"--debug is for a factory; {named} has its own way to be debugged")
        return False
    if given.debug and given.processes != 1:
        raise Refusal(f"--debug and --processes {given.processes}: a process that reloads itself is not forked")
    if more := given.target[1:]:
        raise Refusal(f"{named}: a factory takes no arguments, and options come before it; got {' '.join(more)}")
    return True


def _check_wsgi(given: argparse.Namespace, factory: bool) -> None:
    if not given.wsgi:
        if given.threads is not None:
            raise Refusal("--threads is for --wsgi; Tornado's own server has one")
        return
    if not factory:
        raise Refusal(f"--wsgi is for a factory; {_named(given)} has a server of its own")
    if given.processes != 1:
        raise Refusal(f"--wsgi and --processes {given.processes}: one worker per process; --threads gives it more")
    for name in ("debug", *DEBUG):
        if getattr(given, name):
            raise Refusal(f"--wsgi and --{name.replace('_', '-')}: develop under Tornado's own server")


def _serve_wsgi(options: Options, threads: int, parent: int) -> int:
    try:
        # Only who asks for --wsgi need have it.
        from gunicorn import __version__, version_info  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError:
        raise Refusal(f"--wsgi: gunicorn is not installed here; gunicorn {GUNICORN} or later is wanted") from None
    if version_info[0] < GUNICORN:
        raise Refusal(f"--wsgi: gunicorn is {__version__} here; {GUNICORN} or later is wanted")
    from eyewall.wsgi_server import serve  # noqa: PLC0415

    return serve(options, threads, parent)


def _uvloop() -> Any:
    import uvloop  # noqa: PLC0415 - whoever asks for --no-uvloop need not have it

    return uvloop


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; allowed is 1 to 65535")
    return int(text)


def _address(text: str) -> str:
    if text.startswith(UNIX) and not text.startswith(f"{UNIX}/"):
        raise argparse.ArgumentTypeError(f"{text!r} names no absolute path, as unix:/run/board/proof.sock does")
    return text


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r} is no number; allowed is 0 or more")
    return int(text)


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not allowed; allowed is 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; allowed is 0 to 86400 seconds")
    return seconds


def _trusted(text: str) -> str:
    try:
        parse_trusted(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{error}; an address or a network is wanted, as in 10.0.0.7 or 10.0.0.0/8"
        ) from None
    return text
