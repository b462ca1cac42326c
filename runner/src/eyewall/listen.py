"""The port: shared with the successor, and with nobody else."""

import errno
import socket

from tornado.netutil import bind_sockets

from eyewall.errors import Refusal


def listen(address: str, port: int, backlog: int) -> list[socket.socket]:
    """Listen with ``SO_REUSEPORT``: a successor joins the port before this process leaves it.

    The kernel lets a second process in only if every process on the port set the option and runs as the
    same user (socket(7)), so a foreign program on the port makes this fail, as it should.

    `backlog` is in connections. Raises `Refusal` if the address or the port cannot be had.
    """
    where = f"--port {port} on {address}"
    try:
        return bind_sockets(port, address=address, backlog=backlog, reuse_port=True)
    except socket.gaierror as error:
        raise Refusal(f"--address {address}: {error.strerror}; an address of this host is wanted") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Refusal(
                f"{where}: taken by another program, or by another user's process; "
                "only processes of one user that all set SO_REUSEPORT can share a port"
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise Refusal(f"--address {address}: this host does not have it") from None
        raise Refusal(f"{where}: {error.strerror}") from None
