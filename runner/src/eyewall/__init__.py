"""Run a Tornado application as one production process: ``python -m eyewall --help``.

An application needs nothing from here. One thing is offered to it: `request_id`, a
`contextvars.ContextVar` that holds the id of the request being answered (``-`` outside of one).
Every log line of the application carries it already; read it to pass it on to another service::

    headers = {"X-Request-Id": eyewall.request_id.get()}
"""

from eyewall.context import request_id

__version__ = "0.1.0"

__all__ = ["request_id"]
