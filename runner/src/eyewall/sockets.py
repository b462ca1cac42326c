"""The port, shared with the successor and with nobody else; or a Unix socket, for requests off the air."""

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

from tornado.netutil import bind_unix_socket

from eyewall.arguments import UNIX
from eyewall.children import hide
from eyewall.errors import Refusal

# sockaddr_un.sun_path has 108 bytes with its NUL (unix(7)).
MAX_PATH = 107

BACKLOG = 128  # of an admin socket


def bind(address: str, port: int, backlog: int, at_exit: contextlib.ExitStack) -> list[socket.socket]:
    """Bind `port`, or the Unix socket alone that `address` names; `at_exit` removes the latter.

    The port has ``SO_REUSEPORT``: a successor joins it before this process leaves it. The kernel lets a
    second process in only if every process on the port set the option and runs as the same user
    (socket(7)), so a foreign program on the port makes this fail, as it should. Of a port the kernel
    gives nothing to these sockets before they `listen`, so until then its other processes have it to themselves.

    `backlog` is in connections. Raises `Refusal` if the address or the port cannot be had.
    """
    if address.startswith(UNIX):
        place = UnixSocket(f"--address {address}", Path(address.removeprefix(UNIX)))
        at_exit.callback(place.remove)
        listener = place.bind(backlog)
        place.publish()
        return [listener]
    where = f"--port {port} on {address}"
    try:
        return _bind(address, port)
    except socket.gaierror as error:
        raise Refusal(f"--address {address}: got {error.strerror!r}; expected an address of this host") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Refusal(
                f"{where}: taken by another program, or by another user's process; "
                "only processes of one user that all set SO_REUSEPORT can share a port"
            ) from None
        if error.errno == errno.EADDRNOTAVAIL:
            raise Refusal(f"--address {address}: this host does not have it") from None
        raise Refusal(f"{where}: {error.strerror}") from None


def listen(sockets: list[socket.socket], backlog: int) -> None:
    """Let connections arrive. Raises `Refusal` if another program began to listen there since `bind`."""
    for listener in sockets:
        try:
            listener.listen(backlog)
        except OSError as error:
            raise Refusal(f"listening on {listener.getsockname()}: {error.strerror}") from None


def _bind(address: str, port: int) -> list[socket.socket]:
    """Do what Tornado's ``bind_sockets(…, reuse_port=True)`` does, but for the ``listen`` at its end."""
    found = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    missing: OSError | None = None
    for family, kind, protocol, _, name in sorted(set(found)):
        one = socket.socket(family, kind, protocol)
        try:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # else it takes the port's IPv4 as well, and 0.0.0.0 and :: cannot both be bound (ipv6(7))
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)
            one.bind(name)
            hide(one)
        except OSError as error:
            one.close()
            if error.errno != errno.EADDRNOTAVAIL:
                for bound in sockets:
                    bound.close()
                raise
            # "localhost" is ::1 as well, which a host without IPv6 does not have
            missing = error
        else:
            sockets.append(one)
    if missing is not None and not sockets:
        raise missing
    return sockets


class UnixSocket:
    """A Unix socket at `path`; `given` is the option and its value, for what a user reads."""

    def __init__(self, given: str, path: Path) -> None:
        self._given = given
        self._path = path
        # Our own name in the same directory: rename(2) is atomic within a file system only.
        self._temporary = path.parent / f".{os.getpid()}.{path.name}"
        self._inode: tuple[int, int] | None = None
        self._pid = 0

    def bind(self, backlog: int = BACKLOG, mode: int = 0o600) -> socket.socket:
        """Make the socket, under another name. Raises `Refusal` if the path cannot be had."""
        if (excess := len(os.fsencode(self._temporary)) - MAX_PATH) > 0:
            raise Refusal(f"{self._given}: longer by {excess} bytes than a Unix socket's path can be")
        try:
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(self._path.lstat().st_mode):
                    raise Refusal(f"{self._given}: exists and is no socket")
            listener = bind_unix_socket(str(self._temporary), mode=mode, backlog=backlog)
            hide(listener)
            at = self._temporary.stat()
        except OSError as error:
            raise Refusal(f"{self._given}: {error.strerror}") from None
        self._inode = (at.st_dev, at.st_ino)
        self._pid = os.getpid()
        return listener

    def publish(self) -> None:
        """Take the path over from whoever had it, in one step; `bind` comes before.

        At no moment is there no socket at the path, and one that a dead process left there is replaced.
        A living process that had it goes on, unseen. Again is harmless, also in a forked process.
        """
        with contextlib.suppress(FileNotFoundError):
            self._temporary.rename(self._path)

    def superseded(self) -> bool:
        """Tell whether another process's socket stands at the path. No socket at all is no successor."""
        at = self._at_path()
        return at is not None and at != self._inode

    def is_missing(self) -> bool:
        """Tell whether nothing stands at the path, ours or another's."""
        return not os.path.lexists(self._path)

    def remove(self) -> None:
        """Remove the socket unless it is a successor's, was never made, or is our parent's."""
        if self._pid != os.getpid():
            return
        self._temporary.unlink(missing_ok=True)
        if self._at_path() == self._inode:
            self._path.unlink()

    def _at_path(self) -> tuple[int, int] | None:
        # While we listen, the kernel holds our inode, so its number is nobody else's.
        try:
            at = self._path.stat()
        except OSError:
            return None
        return (at.st_dev, at.st_ino)
