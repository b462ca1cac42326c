"""The program of Tornado's guide ("Running and deploying"), for tests/apps/testapp.

python serve.py --port=9001
"""

import asyncio

from testapp import make_app
from tornado.options import define, options, parse_command_line

define("port", type=int, help="listen on this port of loopback")


async def main() -> None:
    """Serve until the end of the process."""
    parse_command_line()
    app = await make_app()
    app.listen(options.port, "127.0.0.1", xheaders=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
