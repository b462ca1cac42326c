"""One line per message, on stderr, with the process's port and the request's id."""

import logging
import sys
import time

from tornado.log import access_log
from tornado.web import RequestHandler

from eyewall.context import request_id


class LineFormatter(logging.Formatter):
    r"""``2026-11-22T11:03:04.123Z INFO 8000 <request id> tornado.general: message``; times are UTC.

    The port stands in every line, because the lines of all processes of a host end up in one place. The further lines of a
    message, as a traceback's, begin with a tab. What cannot be printed is named, as in ``\x1b``.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, port: int) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {port} %(request_id)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        text = super().format(record)
        return text if text.isprintable() else "".join(map(_readable, text))


def _readable(character: str) -> str:
    """One character of a text of more than a line, or with what cannot be printed.

    Clients have a part in many messages. None of them begins a line that looks like another message, and none is a command to
    the terminal of whoever reads it.
    """
    if character == "\n":
        return "\n\t"
    return character if character.isprintable() or character == "\t" else ascii(character)[1:-1]


def log_to_stderr(port: int, level: str) -> None:
    """Send every logger's messages of at least `level` to stderr.

    ``tornado.access`` starts at WARNING unless `level` is debug: nginx logs every request already, and
    Tornado's line for each costs 10 to 12 % of its throughput (measured, docs on performance).
    The application may set it otherwise.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(port))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level != "debug":
        logging.getLogger("tornado.access").setLevel(logging.WARNING)


def log_request(handler: RequestHandler) -> None:
    """Log a request as ``Application.log_request`` does, but make no line that nobody will see.

    Tornado makes the line and then asks whether it is wanted. It is not, as a rule: see `log_to_stderr`.
    To be an application's ``log_function``, unless that has one of its own.
    """
    status = handler.get_status()
    level = logging.INFO if status < 400 else logging.WARNING if status < 500 else logging.ERROR
    if access_log.isEnabledFor(level):
        request = handler.request
        access_log.log(
            level, "%d %s %s (%s) %.2fms",
            status, request.method, request.uri, request.remote_ip, 1000 * request.request_time(),
        )  # fmt: skip
