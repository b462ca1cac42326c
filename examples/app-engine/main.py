"""A Tornado application for App Engine. It knows neither the runner nor WSGI."""

import os

from tornado.web import Application, RequestHandler


class Index(RequestHandler):
    def get(self) -> None:
        # The one address that a client cannot make up: App Engine removes this header from what it sends.
        client = self.request.headers.get("X-Appengine-User-Ip", "unknown")
        self.write({"version": os.environ.get("GAE_VERSION", "-"), "url": self.request.full_url(), "client": client})


class Warmup(RequestHandler):
    def get(self) -> None:
        """Answer: the application is loaded by now."""


def make_app() -> Application:
    return Application([(r"/", Index), (r"/_ah/warmup", Warmup)])
