"""For development: Tornado's debug mode, and a life under ``python -m tornado.autoreload``."""

import faulthandler
import functools
import logging
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn, Self

from tornado import autoreload
from tornado.web import Application

from eyewall.arguments import DEBUG
from eyewall.environment import replaced
from eyewall.errors import Refusal

log = logging.getLogger(__name__)

_start = autoreload.start
_init = Application.__init__


def decide_debug(debug: bool, switches: Mapping[str, bool], production: bool, reloads: bool) -> Mapping[str, bool]:
    """Decide on debug mode for every `Application` that this process makes from now on, of any class and by anybody.

    Args:
        debug: do what ``Application(debug=True)`` does, each part unless the application sets it.
        switches: parts of debug mode that are on or off, whatever `debug` and the application say.
        production: every part is off, and the log says which of them the application had asked for.
        reloads: whether this process can reload itself. Where it cannot (several processes share the port, or gunicorn
            serves), an application that asks for autoreload is a `Refusal`.

    Returns the settings that are fixed, for `fix_debug`.

    """
    fixed = {"debug": False} | {name: not value for name, value in DEBUG.items()} if production else dict(switches)
    if fixed.get("autoreload") is False:
        forbid_autoreload()

    @functools.wraps(_init)
    def init(application: Application, *args: Any, **settings: Any) -> None:
        if debug:
            settings = DEBUG | settings | {"debug": True}
        asked = [name for name, value in DEBUG.items() if _has(settings, name) == value]
        if production and asked:
            log.warning("debug mode is off in production; the application asks for: %s", ", ".join(asked))
        settings |= fixed
        if not reloads and _has(settings, "autoreload"):
            raise Refusal(
                "autoreload: got an application that asks for it (debug=True does); expected none where several processes share "
                "the port or gunicorn serves. --no-autoreload turns it off."
            )
        _init(application, *args, **settings)
        fix_debug(application, fixed)

    setattr(Application, "__init__", init)  # noqa: B010 - mypy wants no assignment to a method
    return fixed


def fix_debug(application: Application, fixed: Mapping[str, bool]) -> None:
    """Keep settings of an application as they are `fixed`, whoever changes them later."""
    if fixed and not isinstance(application.settings, _Fixed):
        application.settings = _Fixed(application.settings, fixed)


def _has(settings: Mapping[str, Any], name: str) -> bool:
    """Return what a part of debug mode is with these settings."""
    value = DEBUG[name]
    return bool(settings.get(name, value if settings.get("debug") else not value))


class _Fixed(dict[str, Any]):
    """Settings of an application, some of which nobody changes any more. Reading them costs nothing more than before."""

    def __init__(self, settings: Mapping[str, Any], fixed: Mapping[str, Any]) -> None:
        super().__init__({**settings, **fixed})
        self._fixed = fixed

    def __setitem__(self, name: str, value: Any) -> None:
        if name not in self._fixed:
            super().__setitem__(name, value)

    def update(self, *args: Any, **kwargs: Any) -> None:
        super().update({**dict(*args, **kwargs), **self._fixed})

    def __ior__(self, other: Any) -> Self:  # type: ignore[override,misc]
        self.update(other)
        return self


def forbid_autoreload() -> None:
    """Let nobody start autoreload: an `Application` would as it is made, and nothing could stop it any more."""

    def start(check_time: int = 500) -> None:
        del check_time
        log.info("autoreload is off")

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
    """Under ``python -m tornado.autoreload``: end after a drain (`status` 0), else wait for a change and start again.

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
