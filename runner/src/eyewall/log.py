"""One line per message, on stderr, with the process's port and the request's id."""

import logging
import sys
import time

from tornado.log import access_log
from tornado.web import RequestHandler

from eyewall.context import request_id


class LineFormatter(logging.Formatter):
    """``2026-11-22T11:03:04.123Z INFO 8000 <request id> tornado.general: message``; times are UTC.

    The port stands in every line, because the lines of all processes of a host end up in one place.
    """

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, port: int) -> None:
        super().__init__(f"%(asctime)s %(levelname)s {port} %(request_id)s %(name)s: %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        record.request_id = request_id.get()
        return super().format(record)


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
