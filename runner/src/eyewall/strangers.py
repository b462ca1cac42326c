"""Servers that are not Tornado's, in a program that is to be served by Tornado's."""

import socketserver
import sys
from collections.abc import Callable
from typing import Any

from eyewall.signals import loop_classes

# Who merely passes on what somebody else wants.
_BETWEEN = {"asyncio", "eyewall", "socketserver", "uvloop"}


def refuse_strangers(refuse: Callable[[str, object, object], None]) -> None:
    """Call `refuse` with who, host and port, before a server that is not Tornado's listens on a TCP port by name.

    That is every server on asyncio (``loop.create_server``: uvicorn, hypercorn, aiohttp) and in a thread (`socketserver`:
    wsgiref, http.server, Prometheus' client). ``TCPServer`` of Tornado is left alone, and so is who asks for any port.
    """
    for loop in loop_classes():
        _take_over(loop, refuse)
    bind = socketserver.TCPServer.server_bind

    def server_bind(server: socketserver.TCPServer) -> None:
        name: Any = server.server_address
        if isinstance(name, tuple) and name[1]:
            refuse(_who(), *name[:2])
        bind(server)

    setattr(socketserver.TCPServer, "server_bind", server_bind)  # noqa: B010 - mypy wants no assignment to a method


def _take_over(loop: Any, refuse: Callable[[str, object, object], None]) -> None:
    create = loop.create_server

    async def create_server(self_: Any, factory: Any, host: Any = None, port: Any = None, **options: Any) -> Any:
        name = options["sock"].getsockname() if options.get("sock") is not None else (host, port)
        if isinstance(name, tuple) and name[1]:
            refuse(_who(), *name[:2])
        return await create(self_, factory, host, port, **options)

    loop.create_server = create_server


def _who() -> str:
    """Return the module that wants to listen."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _BETWEEN:
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "the program"))
