"""The runner's server in the process of a test, on a loop of its own."""

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator
from typing import Any

from eyewall.bodies import Limits
from eyewall.server import Server
from tornado.netutil import bind_sockets
from tornado.web import Application


@contextlib.asynccontextmanager
async def served(handlers: list[Any], **options: Any) -> AsyncIterator[tuple[str, int]]:
    """Serve these handlers; the address. Whoever is still connected at the end is cut."""
    server = Server(Application(handlers), limits=Limits(0, 0), **options)
    (listener,) = bind_sockets(0, "127.0.0.1")
    server.add_sockets([listener])
    yield listener.getsockname()
    server.stop()
    await server.close_all_connections()


async def read_json(reader: asyncio.StreamReader) -> Any:
    """Read one answer with a Content-Length, which is JSON."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"Content-Length: (\d+)", head)
    assert length, head
    return json.loads(await reader.readexactly(int(length[1])))
