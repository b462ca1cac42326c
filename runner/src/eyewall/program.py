"""Program mode: run a program that nobody changed, and have its servers.

Tornado's own extension point does it: ``HTTPServer.configure(ProgramServer, …)`` replaces the class behind
every `HTTPServer` and ``Application.listen`` in the process. On top of that the program is run as Python
itself would, in a place where

- **the runner decides where it listens**. Whatever address and port the program asks for, it gets ours, also
  from ``netutil.bind_sockets``. It may ask for one port (for several addresses, several times, in several
  servers); a second port is refused: it would be open to anybody, and no successor could have it.
- **one application is on the port**. Another one gets what it asked for, a Unix socket or any port of loopback, or is
  refused; never the port, where the public would meet it.
- **a class derived from** `HTTPServer` is as good as `HTTPServer`; a server that is not Tornado's is refused before it
  listens, because no successor could have its address.
- **it listens when its loop turns**, not earlier: what it does between ``listen`` and the start of the loop is
  done before anything is taken over from the process that serves.
- **SIGTERM and SIGINT drain first**; then the program's own handler has its turn (see `eyewall.signals`);
- **autoreload is off**.
"""

import asyncio
import importlib.metadata
import importlib.util
import logging
import os
import runpy
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

from tornado import netutil
from tornado import process as tornado_process
from tornado.httpserver import HTTPServer
from tornado.ioloop import IOLoop
from tornado.netutil import bind_unix_socket as netutil_bind_unix_socket

from eyewall import children
from eyewall.arguments import UNIX
from eyewall.debug import forbid_autoreload
from eyewall.errors import Refusal
from eyewall.importer import summary
from eyewall.prefork import Prefork
from eyewall.process import Process
from eyewall.server import ProgramServer, adopt_subclasses
from eyewall.sockets import UnixSocket, bind
from eyewall.strangers import refuse_strangers
from eyewall.watchdog import EXIT_SECONDS, exit_in

log = logging.getLogger(__name__)


class Place(socket.socket):
    """What the program gets for a listening socket: it names our address, and listens to nothing.

    The program may ask it for its name, close it (Jupyter Server does, to find out whether a port is free),
    or hand it to an `HTTPServer`, which takes ours instead.
    """

    def __init__(self, port: int, asked: int, misused: Callable[[], None]) -> None:
        """`asked` is the port that the program wants, 0 for any."""
        super().__init__(socket.AF_INET, socket.SOCK_STREAM)
        self.name = ("127.0.0.1", port)
        self.asked = asked
        self._misused = misused
        children.hide_file(super().fileno())

    def __repr__(self) -> str:
        return f"<stands for the socket of eyewall at {self.name}>"

    def getsockname(self) -> Any:
        return self.name

    def listen(self, *_: int) -> None:
        pass

    def fileno(self) -> int:
        # Whoever asks wants to accept from it.
        if super().fileno() >= 0:
            self._misused()
        return super().fileno()


class Program:
    """A program, and the `Process` that its servers are part of; `run` it once."""

    def __init__(self, process: Process, arguments: Sequence[str], module: bool, patience: float) -> None:
        """`arguments`: the file, or the `module`, then its own; it must listen within `patience` seconds."""
        self._process = process
        self._arguments = [text.replace("{port}", str(process.options.port)) for text in arguments]
        self._module = module
        self._patience = patience
        self._at_exit = ExitStack()
        self._refusal: Refusal | None = None
        self._asked: int | None = None
        self._application: object = None  # what is on the port
        self._unix: list[UnixSocket] = []  # the program's own, until they are at their paths
        self._task: asyncio.Task[None] | None = None
        self._loop: IOLoop | None = None
        self._timer: threading.Timer | None = None
        self._drained = False
        self._pid = os.getpid()
        self._forked = False

    def run(self) -> int:
        """Run the program to its end and return the exit status: 0 after a drain, else its own.

        Raises `Refusal` if it ended, raised, or wanted what it cannot have, before it served.
        """
        process, target = self._process, self._process.options.target
        self._take_over()
        self._start_timer()
        ended = "ended"
        status: Any = 0
        try:
            with self._at_exit:
                self._execute()
        except SystemExit as end:
            status = end.code
            ended = f"ended with {status!r}"
        except KeyboardInterrupt:
            status = 128 + signal.SIGINT
        except Refusal:
            raise
        except Exception as error:
            if not self._drained and not process.serving:
                raise self._refusal or Refusal(f"{target}: raised {summary(error)}") from error
            traceback.print_exc()
            status = 1
        finally:
            self._stop_timer()
            self._end()
        if self._drained:
            return 0
        if self._refusal is not None:
            raise self._refusal
        if process.membership.status is not None:
            return process.membership.status
        if not process.serving:
            if self._forked and not status:
                raise self._background()
            raise Refusal(f"{target}: {ended} without a Tornado HTTPServer that listens")
        if isinstance(status, str):
            sys.stderr.write(f"{status}\n")
        return status if isinstance(status, int) else 0 if status is None else 1

    # What the program's servers call

    def sockets(self, port: int) -> list[socket.socket]:
        """Return what stands for our sockets, to a program that asks for `port`."""
        asked = int(port or 0)
        self._ask(asked)
        return [Place(self._process.options.port, asked, self._misused)]

    def add(self, server: ProgramServer, sockets: Iterable[socket.socket]) -> None:
        """Let `server` listen on ours, for those that the program gave it, or on what is its own alone."""
        if os.getpid() != self._pid and not self._process.membership.forked:
            self._leave(self._background())
        own: list[socket.socket] = []
        for given in sockets:
            if given.family == socket.AF_UNIX:
                own.append(given)
                continue
            place = given
            if not isinstance(place, Place):
                (place,) = self.sockets(given.getsockname()[1])
                given.close()
            assert isinstance(place, Place)  # noqa: S101
            # whoever asks for it by its number may have it after an application whose servers are all stopped
            is_free = self._application is None or (place.asked != 0 and not self._process.servers.on_port)
            if is_free or self._application == server.request_callback:
                self._put_on_port(server)
                server.show([place])
            elif place.asked == 0:
                own.append(self._private(place))
            else:
                self._refuse_second_application(place.asked)
        server.own_sockets += own
        server.show(own)
        if server.stopped:
            if server in self._process.servers:
                self._process.servers.remove(server)
            server.begin_again()
        if server not in self._process.servers:
            self._process.add(server)
        elif self._process.serving:
            server.open(own)
        if server.on_port and self._loop is None:
            self._loop = IOLoop.current()
            self._loop.add_callback(self._start)

    def stopped(self) -> None:
        """Let go of the port if a program has stopped every server that was on it."""
        self._process.leave_port()

    # The rest is our own

    def _put_on_port(self, server: ProgramServer) -> None:
        self._application = server.request_callback
        server.on_port = True
        if server.ssl_options is not None:
            log.warning("%s: ssl_options are left out; TLS is for the proxy in front", self._process.options.target)
            server.ssl_options = None

    def _private(self, place: Place) -> socket.socket:
        """Return a socket on a port that the kernel chooses, for this host alone; `place` stood for it."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=self._process.options.backlog)
        listener.setblocking(False)
        place.name = listener.getsockname()
        place.close()
        log.info("%s asks for any port beside its own, and gets %s:%d", self._process.options.target, *place.name)
        return listener

    def _refuse_second_application(self, port: int) -> None:
        self._refuse(
            Refusal(
                f"{self._process.options.target}: got a second application for port {port}; expected one on the port, which is "
                "public. Another one may have a Unix socket (tornado.netutil.bind_unix_socket) or any port (0), in this order"
            )
        )

    def _take_over(self) -> None:
        process = self._process
        process.signals.take_over()
        # Before the program is imported, so that it gets these also by "from tornado.netutil import …".
        setattr(netutil, "bind_sockets", self._bind_sockets)  # noqa: B010 - mypy wants no such assignment
        setattr(tornado_process, "fork_processes", self._fork)  # noqa: B010
        # A reload would start the program again without us, on its own port. What a release is made of never changes.
        forbid_autoreload()
        ProgramServer.defaults = {"place": self, **process.parts}
        HTTPServer.configure(ProgramServer)
        adopt_subclasses()
        setattr(netutil, "bind_unix_socket", self._bind_unix_socket)  # noqa: B010
        refuse_strangers(self._refuse_stranger)
        self._stay_in_the_foreground()

    def _stay_in_the_foreground(self) -> None:
        """Say what is wrong with a program that forks and ends (``--background``): a daemon leaves by ``os._exit``."""
        leave = os._exit

        def note() -> None:
            self._forked = True

        def leave_unless_daemon(status: int) -> NoReturn:
            if self._forked and not status and os.getpid() == self._pid and not self._process.serving:
                self._leave(self._background())
            leave(status)

        os.register_at_fork(after_in_parent=note)
        setattr(os, "_exit", leave_unless_daemon)  # noqa: B010

    def _background(self) -> Refusal:
        return Refusal(
            f"{self._process.options.target}: got a program that goes into the background; expected one that stays in the "
            "foreground. Leave out --background, --daemon or the like"
        )

    def _leave(self, refusal: Refusal) -> NoReturn:
        """Say why and end at once, in a process that has no way back to `run`."""
        sys.stderr.write(f"eyewall: {refusal}\n")
        sys.stderr.flush()
        os._exit(2)

    def _bind_unix_socket(self, file: str, mode: int = 0o600, backlog: int = 128) -> socket.socket:
        """Be ``tornado.netutil.bind_unix_socket``. Nothing at the path is replaced before the process serves."""
        if file.startswith("\0"):  # abstract (unix(7)): there is no path
            return netutil_bind_unix_socket(file, mode, backlog)
        place = UnixSocket(f"{self._process.options.target}: bind_unix_socket({file!r})", Path(file).absolute())
        self._at_exit.callback(place.remove)
        listener = place.bind(backlog, mode)
        self._unix.append(place)
        if self._process.serving:
            self._publish()
        return listener

    def _publish(self) -> None:
        # not while a release is tried beside the one that serves: the path is that one's
        if not self._process.options.address.startswith(UNIX):
            while self._unix:
                self._unix.pop().publish()

    def _refuse_stranger(self, who: str, host: object, port: object) -> None:
        """Refuse a server that is not Tornado's, unless an `HTTPServer` of the program is there, which is what is served."""
        if self._application is None:
            self._refuse(
                Refusal(
                    f"{self._process.options.target}: {who} wants to listen on {host or '*'}:{port}; expected Tornado's "
                    "HTTPServer (Application.listen), because no other process could have that address at the same time"
                )
            )

    def _bind_sockets(self, port: int, *_: Any, **__: Any) -> list[socket.socket]:
        return self.sockets(port)

    def _ask(self, port: int) -> None:
        options = self._process.options
        # 0 is any port, so ours will do, for the application that is on it
        if port in (0, self._asked):
            return
        if self._asked is not None:
            self._refuse(
                Refusal(
                    f"{options.target}: listens on port {self._asked} and on port {port} as well; "
                    "a program may have one port, which the runner decides"
                )
            )
        self._asked = port
        if port != options.port:
            log.info("%s asks for port %d, and gets %s", options.target, port, options.where)

    def _fork(self, num_processes: int | None, max_restarts: int | None = None) -> int:
        """Be ``tornado.process.fork_processes`` for the program."""
        process, options = self._process, self._process.options
        if process.membership.forked:
            self._refuse(Refusal(f"{options.target}: forks by itself, and --processes is given; leave one of them out"))
        # It is a thread, and only the thread that forks is there in a child.
        self._stop_timer()
        try:
            sockets = bind(options.address, options.port, options.backlog, self._at_exit)
            group = Prefork(num_processes or 0, sockets, process.signals, process.parent)
            process.membership = group
            children.suspend()
            group.fork(max_restarts)
        except Refusal as refusal:
            self._refuse(Refusal(f"{options.target}: {refusal}"))
            raise
        self._at_exit.pop_all()  # the parent's
        children.begin()
        self._start_timer()
        return group.number

    def _misused(self) -> None:
        self._refuse(
            Refusal(
                f"{self._process.options.target}: something that is no HTTPServer wants to accept from a socket of "
                "tornado.netutil.bind_sockets; only an HTTPServer can be handed over (TCPServer.listen is left alone)"
            )
        )

    def _refuse(self, refusal: Refusal) -> None:
        """Raise what ends the program; while it serves, raise `refusal` itself, which it may live with."""
        if self._process.serving:
            raise refusal
        self._refusal = refusal
        # A program may catch an Exception, and go on with half of what it wanted.
        raise SystemExit(2)

    def _start(self) -> None:
        self._stop_timer()
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            await self._process.serve(self._publish)
        except Refusal as refusal:
            self._refusal = refusal
            loop.call_soon(sys.exit, 2)
            return
        except Exception:
            # It would be there, and not serve.
            log.exception("cannot serve")
            loop.call_soon(sys.exit, 1)
            return
        self._drained = True
        exit_in(EXIT_SECONDS, 0, f"{EXIT_SECONDS:g} s after the drain the program is still here; it is ended")
        # Not from this task, which would be left with an exception that nobody asks for.
        loop.call_soon(self._process.signals.pass_on)

    def _end(self) -> None:
        """Take back what we have on a loop that the program has left by itself."""
        task = self._task
        if task is None or task.done():
            return
        loop = task.get_loop()
        if not loop.is_closed() and not loop.is_running():
            task.cancel()
            loop.run_until_complete(asyncio.wait([task]))

    def _start_timer(self) -> None:
        target, membership = self._process.options.target, self._process.membership
        self._timer = exit_in(
            self._patience, 2,
            f"{target}: did not listen with a Tornado HTTPServer within {self._patience:g} s (--start)",
            membership.refuse,
        )  # fmt: skip

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join()
            self._timer = None

    def _execute(self) -> None:
        target, arguments = self._arguments[0], self._arguments
        named = self._process.options.target
        if self._module:
            if not _exists(target):
                raise Refusal(f"{named}: there is no module {target!r} on sys.path that can be run")
            sys.argv = list(arguments)
            runpy.run_module(target, run_name="__main__", alter_sys=True)
        elif script := console_script(target):
            # what the file in bin/ does, which an installer has made of this
            sys.argv = [str(Path(sys.executable).with_name(target)), *arguments[1:]]
            sys.exit(script.load()())
        else:
            if not Path(target).exists():
                raise Refusal(f"{named}: there is no such file")
            sys.argv = list(arguments)
            if not sys.flags.safe_path:
                del sys.path[0]  # the directory that "python -m eyewall" was started in
            # -P keeps that one out. A program's own directory it must have.
            sys.path.insert(0, str(Path(target).resolve().parent))
            runpy.run_path(target, run_name="__main__")


def console_script(name: str) -> importlib.metadata.EntryPoint | None:
    """Return the console script of that name among what is installed; None for none, and for what is a path."""
    return next(iter(importlib.metadata.entry_points(group="console_scripts", name=name)), None)


def _exists(module: str) -> bool:
    """Tell whether ``python -m module`` would find something to run."""
    try:
        found = importlib.util.find_spec(module)
        if found is not None and found.submodule_search_locations is not None:
            found = importlib.util.find_spec(f"{module}.__main__")
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module}.".startswith(f"{error.name}."):
            return False
        raise
    return found is not None
