"""Every private name of Tornado and of gunicorn on which the runner depends.

A newer version may change any of them without notice. What is imported comes from here, under a name of ours. Attributes are used
where they are needed, because a call in between would cost each request; ATTRIBUTES has each of them. The tests compare both with
the runner's source and with the installed versions (runner/tests/test_private.py), the oldest Tornado's among them.

Checked against Tornado 6.5 and 6.6 and gunicorn 27. ``HTTPHeaders`` of Tornado 6.5.0 to 6.5.2 has other attributes, of which none
is used (`eyewall.head`, `eyewall.packed`).
"""

from tornado.http1connection import _GzipMessageDelegate as GzipMessageDelegate
from tornado.httputil import _normalize_header as normalize_header

__all__ = ["ATTRIBUTES", "GzipMessageDelegate", "normalize_header"]

ATTRIBUTES = {
    "tornado.http1connection.HTTP1Connection": (
        "_disconnect_on_finish",
        "_finish_future",
        "_parse_headers",
        "_read_finished",
        "_request_headers",
        "_request_start_line",
        "_response_start_line",
    ),
    "tornado.httpserver.HTTPServer": ("_connections",),
    "tornado.httpserver._HTTPRequestContext": ("_apply_xheaders", "_unapply_xheaders"),
    "tornado.httputil.HTTPHeaders": ("_as_list", "_combined_cache"),
    "tornado.ioloop.IOLoop": ("_ioloop_for_asyncio",),
    "tornado.iostream.BaseIOStream": ("_handle_read", "_write_buffer", "_write_futures"),
    "tornado.iostream._StreamBuffer": ("_buffers",),
    # of classes that are private themselves: which handler answers, and whether it streams (`eyewall.bodies`)
    "tornado.routing._RoutingDelegate": ("delegate",),
    "tornado.tcpserver.TCPServer": ("_handle_connection", "_handlers", "_pending_sockets", "_sockets", "_stopped"),
    "tornado.web.RequestHandler": ("_headers",),
    "tornado.web.StaticFileHandler": ("_get_cached_version",),
    "tornado.web._HandlerDelegate": ("stream_request_body",),
    "gunicorn.workers.gthread.PollableMethodQueue": ("_write_fd",),
}
