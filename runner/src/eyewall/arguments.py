"""The options of ``python -m eyewall``.

Nothing heavy is imported here: they are read once before the process has its environment (`eyewall.environment`).
"""

import argparse
import re
from ipaddress import ip_network
from pathlib import Path
from typing import NoReturn

from eyewall.bodies import MEGABYTE, WINDOW, Limits
from eyewall.errors import Refusal

# What an address that is a Unix socket's path begins with.
UNIX = "unix:"

# Peers whose headers are believed by default.
LOOPBACK = ("127.0.0.1", "::1")

# What ``Application(debug=True)`` sets, each where the application has not (Tornado's guide, "Running and deploying").
DEBUG = {"autoreload": True, "compiled_template_cache": False, "static_hash_cache": False, "serve_traceback": True}

UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
LEVELS = ("debug", "info", "warning", "error")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Refusal(f"{message} (--help lists the options)")


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of ``python -m eyewall``."""
    parser = _Parser(
        prog="python -m eyewall",
        usage="python -m eyewall --port N [options] (package.module:factory | program.py … | script … | -m package …)",
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
        "a program is any file that Python runs, or a console script of what is installed, with its own arguments",
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
        "--drain-timeout",
        type=_seconds,
        default=30.0,
        metavar="SECONDS",
        help="how long connections may take to end after SIGTERM (default: %(default)g)",
    )
    add(
        "--watchdog-timeout",
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
        "--max-buffered-body",
        type=_size,
        default=MEGABYTE,
        metavar="SIZE",
        help="bytes (or 50M) of a body that the application does not stream and so is held in memory; a larger one gets "
        "413 before it is read; 0: no limit (default: 1M)",
    )
    add(
        "--min-body-rate",
        type=_number,
        default=Limits.rate,
        metavar="N",
        help=f"bytes per second of a body that come at least, over {WINDOW:g} s; a slower one gets 408; "
        "0: no limit (default: %(default)s)",
    )
    add(
        "--core",
        choices=("eyewall", "tornado"),
        default="eyewall",
        help="what reads requests and writes answers: the runner's own code, or Tornado's, which costs more "
        "(default: %(default)s)",
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
    add(
        "--survivor",
        action="append",
        type=_pattern,
        default=[],
        metavar="PATTERN",
        help="regular expression: a program that this process starts, and whose command line has it, is not ended with it; "
        "repeatable (default: everything is ended)",
    )
    add("--no-uvloop", action="store_true", help="use asyncio's own event loop")
    add(
        "--debug",
        action="store_true",
        help="for development, as Application(debug=True): autoreload, serve_traceback, no compiled_template_cache, "
        "no static_hash_cache, each unless the application sets it",
    )
    add(
        "--production",
        action="store_true",
        help="every part of debug mode is off, whatever the application or the program asks for",
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


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 65535:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a port from 1 to 65535")
    return int(text)


def _address(text: str) -> str:
    if text.startswith(UNIX) and not text.startswith(f"{UNIX}/"):
        raise argparse.ArgumentTypeError(f"got {text!r}; expected an absolute path, as in unix:/run/board/proof.sock")
    return text


def _number(text: str) -> int:
    if not text.isascii() or not text.isdigit():
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number, 0 or more")
    return int(text)


def _size(text: str) -> int:
    number, unit = (text[:-1], text[-1].lower()) if text[-1:].isalpha() else (text, "")
    if not number.isascii() or not number.isdigit() or unit not in UNITS:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number of bytes, with k, M or G behind it or not")
    return int(number) * UNITS[unit]


def _positive(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a number, 1 or more")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected 0 to 86400 seconds")
    return seconds


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"got {text!r}; expected a regular expression ({error})") from None


def _trusted(text: str) -> str:
    try:
        ip_network(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"got {text!r} ({error}); expected an address or a network, as in 10.0.0.7 or 10.0.0.0/8"
        ) from None
    return text
