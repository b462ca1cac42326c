"""The command line."""

import argparse
import asyncio
import os
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from eyewall import children
from eyewall.arguments import DEBUG, LOOPBACK, make_parser
from eyewall.bodies import Limits
from eyewall.debug import decide_debug, watch, watch_settings
from eyewall.environment import name_process, read_settings
from eyewall.errors import Refusal
from eyewall.importer import TARGET
from eyewall.limits import raise_open_files
from eyewall.log import log_to_stderr
from eyewall.membership import Alone, Membership
from eyewall.prefork import Prefork
from eyewall.process import Options, Process, serve_factory
from eyewall.program import Program, console_script
from eyewall.signals import Signals
from eyewall.sockets import bind
from eyewall.watchdog import dump_stacks_on_demand, limit_exit

USAGE_ERROR = 2
THREADS = 8
GUNICORN = 27  # the first major version whose names eyewall.wsgi_server knows


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 0 after a drain, 2 with a sentence on stderr if it could not start."""
    # Before anything slow: the orphan rule compares with the parent that started us.
    parent = os.getppid()
    membership: Membership = Alone(parent)
    process: Process | None = None
    try:
        given = make_parser().parse_args(arguments)
        named = _named(given)
        factory = _is_factory(given)
        _check_wsgi(given, factory)
        _check_debug(given, factory)
        watch_settings(given.settings)
        if given.settings is not None:
            read_settings(given.settings)  # they are in force already, unless they cannot be (`eyewall.environment`)
        raise_open_files(given.open_files)
        name_process(given.port, given.release)
        log_to_stderr(given.port, given.log_level)
        dump_stacks_on_demand()
        children.survive(given.survivor)
        children.end_left_over(given.admin and given.admin.absolute())
        switches = {name: value for name in DEBUG if (value := getattr(given, name)) is not None}
        reloads = not factory or (given.processes == 1 and not given.wsgi)  # a program never does (`eyewall.program`)
        fixed = decide_debug(given.debug, switches, given.production, reloads)
        options = Options(
            target=named,
            port=given.port,
            address=given.address,
            admin=given.admin and given.admin.absolute(),
            release=given.release,
            generation=given.generation,
            trusted=tuple(given.trusted or LOOPBACK),
            drain=given.drain_timeout,
            watchdog=given.watchdog_timeout,
            backlog=given.backlog,
            limits=Limits(given.max_buffered_body, given.min_body_rate),
            core=given.core,
            debug=given.debug,
            fixed=fixed,
        )
        if given.wsgi:
            return _serve_wsgi(options, given.threads or THREADS, parent)
        signals = Signals()
        with ExitStack() as at_exit:
            if given.processes != 1:
                sockets = bind(options.address, options.port, options.backlog, at_exit)
                membership = group = Prefork(given.processes, sockets, signals, parent)
                group.fork()
                at_exit.pop_all()  # the parent's
            process = Process(options, parent, signals, membership)
            if factory:
                _run_factory(process, given.no_uvloop)
                return 0
            if not given.no_uvloop:
                asyncio.set_event_loop_policy(_policy())
            return Program(process, given.module or given.target, given.module is not None, given.start).run()
    except Refusal as refusal:
        # A program may have made a group of its own.
        membership = process.membership if process is not None else membership
        if membership.refuse():
            if refusal.__cause__ is not None:
                traceback.print_exception(refusal.__cause__)
                watch(refusal.__cause__)
            sys.stderr.write(f"eyewall: {refusal}\n")
        return USAGE_ERROR
    finally:
        children.end()


def _run_factory(process: Process, no_uvloop: bool) -> None:
    make = children.hidden(asyncio.new_event_loop if no_uvloop else _uvloop().new_event_loop)
    ours = os.getpid()
    with asyncio.Runner(loop_factory=make) as runner:
        try:
            runner.run(serve_factory(process))
        except SystemExit as end:
            # a child that a handler forked: neither the loop nor what is still to be done is its own
            if os.getpid() != ours:
                os._exit(end.code if isinstance(end.code, int) else end.code is not None)
            raise
        finally:
            limit_exit()
            # the interpreter, and before that the loop, waits for a thread that waits for one of them
            children.end()


def _named(given: argparse.Namespace) -> str:
    """Name what is to be run, as its user did."""
    if given.module is not None:
        if not given.module or given.target:
            raise Refusal("-m: got no name; expected a package or module, as in -m package")
        return f"-m {given.module[0]}"
    if not given.target:
        raise Refusal("got nothing to run; expected package.module:factory, program.py, a console script or -m package")
    return str(given.target[0])


def _is_factory(given: argparse.Namespace) -> bool:
    named = _named(given)
    looks_like_file = os.sep in named or named.endswith(".py") or Path(named).exists()
    if given.module is not None or (not TARGET.fullmatch(named) and (looks_like_file or console_script(named))):
        return False
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


def _check_debug(given: argparse.Namespace, factory: bool) -> None:
    """Refuse what of debug mode cannot be in force. Autoreload is for one process (Tornado's guide), which `--debug` has."""
    reloads = [f"--{name}" for name in ("debug", "autoreload") if getattr(given, name)]
    for option, why in (
        ("" if factory else _named(given), "a reload would start the program again without the runner"),
        ("--wsgi" if given.wsgi else "", "develop under Tornado's own server"),
        (
            f"--processes {given.processes}" if given.processes != 1 else "",
            "a process that reloads itself is not forked",
        ),
    ):
        if option and reloads:
            raise Refusal(f"{reloads[0]}: got it together with {option}; expected one of the two, for {why}.")
    if given.production:
        for name in ("debug", *DEBUG):
            if getattr(given, name) is DEBUG.get(name, True):
                option = f"--{'' if DEBUG.get(name, True) else 'no-'}{name.replace('_', '-')}"
                raise Refusal(f"{option}: got it together with --production, which turns every part of debug mode off.")


def _serve_wsgi(options: Options, threads: int, parent: int) -> int:
    try:
        # Only who asks for --wsgi need have it.
        from gunicorn import __version__, version_info  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError:
        raise Refusal(f"--wsgi: got no gunicorn; expected gunicorn {GUNICORN} or later") from None
    if version_info[0] < GUNICORN:
        raise Refusal(f"--wsgi: got gunicorn {__version__}; expected {GUNICORN} or later")
    from eyewall.wsgi_server import serve  # noqa: PLC0415

    return serve(options, threads, parent)


def _policy() -> asyncio.AbstractEventLoopPolicy:
    class Policy(_uvloop().EventLoopPolicy):  # type: ignore[misc]
        def _loop_factory(self) -> Any:
            return children.hidden(super()._loop_factory)()

    return Policy()


def _uvloop() -> Any:
    import uvloop  # noqa: PLC0415 - whoever asks for --no-uvloop need not have it

    return uvloop
