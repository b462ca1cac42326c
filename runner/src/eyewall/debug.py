"""For development: Tornado's debug mode, and a life under ``python -m tornado.autoreload``."""

import faulthandler
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from tornado import autoreload
from tornado.web import Application

from eyewall.arguments import DEBUG
from eyewall.environment import replaced

_start = autoreload.start


def set_debug(application: Application, debug: bool, switches: Mapping[str, bool]) -> None:
    """Do what ``Application(debug=True)`` does if `debug`; `switches`, by name, go before all else."""
    settings = application.settings
    if debug:
        for name, value in DEBUG.items():
            settings.setdefault(name, value)
    settings.update(switches)
    if settings.get("autoreload"):
        autoreload.start()


def forbid_autoreload() -> None:
    """Let no `Application` start autoreload: it would do so as it is made, and nothing could stop it any more."""

    def start(check_time: int = 500) -> None:
        del check_time

    autoreload.start = start


def watch_settings(path: Path | None) -> None:
    """Let a change of the settings count as one of the code.

    A reload passes the environment on (execve(2)): without the settings, or one that was removed from the file would stay.
    """
    before = os.environ | replaced

    def restore() -> None:
        os.environ.clear()
        os.environ.update({name: value for name, value in before.items() if value is not None})

    autoreload.add_reload_hook(restore)
    if path is not None:
        autoreload.watch(str(path))


def watch(error: BaseException) -> None:
    """Watch the files that `error` came from: what could not be imported is in no list of modules."""
    for frame in traceback.extract_tb(error.__traceback__):
        autoreload.watch(frame.filename)
    if isinstance(error, SyntaxError) and error.filename is not None:
        # no frame of the traceback is in the broken file
        autoreload.watch(error.filename)


def under_autoreload() -> bool:
    """Tell whether what was typed is ``python -m tornado.autoreload -m eyewall …``."""
    return "tornado.autoreload" in sys.orig_argv


def stay(status: int) -> NoReturn:
    """Under ``python -m tornado.autoreload``: end after a drain (`status` 0), else wait for a change and start anew.

    That program would wait after a drain as well: it does not know that somebody wants the process to end.
    And it does not know what is watched here, because it is the module ``__main__``, not ``tornado.autoreload``.
    """
    if status == 0:
        logging.shutdown()
        os._exit(0)
    faulthandler.cancel_dump_traceback_later()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback at Ctrl-C
    autoreload.start = _start
    sys.stderr.write("eyewall: starts again when a file changes\n")
    autoreload.wait()
    raise AssertionError("autoreload.wait() never returns")
