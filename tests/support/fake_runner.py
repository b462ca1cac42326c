"""A stand-in for the runner that starts in no time and misbehaves on demand.

It takes the runner's command line. The settings file says what else it does: MISBEHAVE is one of
`never ready`, `exit at start`, `exit after ready` (EXIT_AFTER seconds later, or when the event EXIT_WHEN was), `exit once` (the
same, and never again) and `ignore SIGTERM`, BAD_PORT the only port on which it does; ANSWERS a JSON object of statuses by path
(200 for any other; 0 is no answer at all), DRAIN how many seconds it takes to leave (DRAIN_PORT the only port
on which it takes any), ASKED what it does when it is asked to drain (`no`: it drains on its signal alone; `leaves`:
at once, without a drain; else it drains, and waits for its signal), SAYS what its log has to say first, EVENTS the
file that it writes what it does to, LOCK a file that pollers lock while they connect. See supervised_host.py.
"""

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path


def option(name: str, default: str = "") -> str:
    return sys.argv[sys.argv.index(name) + 1] if name in sys.argv else default


PORT, ADMIN, GENERATION = int(option("--port")), option("--admin"), option("--generation")
ADDRESS = option("--address", "127.0.0.1")
GROUP = Path(ADMIN).name.removesuffix(f"-{PORT}.sock")  # the generation's, or the one of its proof
SETTINGS = json.loads(Path(option("--settings")).read_text())
EVENTS = Path(SETTINGS["EVENTS"])
DRAIN = float(SETTINGS.get("DRAIN", "0")) if SETTINGS.get("DRAIN_PORT", str(PORT)) == str(PORT) else 0.0
ANSWERS: dict[str, int] = json.loads(SETTINGS.get("ANSWERS", "{}"))
MISBEHAVE = SETTINGS.get("MISBEHAVE", "") if SETTINGS.get("BAD_PORT", str(PORT)) == str(PORT) else ""
if MISBEHAVE == "exit once":
    MISBEHAVE = "" if f"{GROUP} {PORT} gives up\n" in EVENTS.read_text() else "exit after ready"
WHO = {"release": option("--release"), "generation": GENERATION, "port": PORT, "pid": os.getpid()}
unanswered: list[socket.socket] = []


def say(what: str) -> None:
    sys.stdout.buffer.write(f"fake runner {GROUP} on {PORT}: {what}\n".encode(errors="surrogateescape"))
    sys.stdout.flush()


def event(what: str) -> None:
    say(what)
    with EVENTS.open("a") as file:
        file.write(f"{GROUP} {PORT} {what}\n")


def answer(connection: socket.socket, content: Callable[[bytes], str], statuses: dict[str, int]) -> None:
    try:
        connection.settimeout(2)
        request = b""
        while b"\r\n\r\n" not in request:
            if not (piece := connection.recv(4096)):
                return
            request += piece
        text = content(request)
        status = statuses.get(request.split()[1].decode(), 200)
        if status == 0:
            unanswered.append(connection.dup())
            return
        head = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        connection.sendall(f"{head}{text}".encode())
    except OSError:
        return
    finally:
        connection.close()


def serve(listener: socket.socket, admin: socket.socket) -> None:  # noqa: PLR0912 -- a loop with all that may go wrong
    """Answer until asked to drain or SIGTERM, then leave as the runner does: what waits in the accept queue is answered."""
    stopped: list[float] = []
    asked: list[float] = []
    if MISBEHAVE != "ignore SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(time.monotonic()))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    state = "starting" if MISBEHAVE == "never ready" else "ready"
    event(state)

    def generation(_: bytes) -> str:
        return GENERATION

    def status(request: bytes) -> str:
        if request.startswith(b"POST /drain ") and SETTINGS.get("ASKED") != "no":
            asked.append(time.monotonic())
        return json.dumps({"state": state if state == "drained" or not asked else "draining", **WHO})

    exits = MISBEHAVE == "exit after ready"
    awaited = SETTINGS.get("EXIT_WHEN", "") if exits else ""
    leave_at = time.monotonic() + (float(SETTINGS.get("EXIT_AFTER", "0.3")) if exits and not awaited else float("inf"))
    public = [listener]
    while time.monotonic() < leave_at and not (awaited and f"{awaited}\n" in EVENTS.read_text()):
        for ready in select.select([*public, admin], [], [], 0.02)[0]:
            connection, _ = ready.accept()
            if ready is listener:
                answer(connection, generation, ANSWERS)
            else:
                answer(connection, status, {})
        if asked and SETTINGS.get("ASKED") == "leaves":
            return
        if public and (stopped or asked):
            state, drained_at = "draining", time.monotonic() + DRAIN
            event("leaving")
            # What the kernel's tcp_migrate_req does: nobody connects between the last accept and the close.
            with Path(SETTINGS["LOCK"]).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                while select.select([listener], [], [], 0)[0]:
                    answer(listener.accept()[0], generation, ANSWERS)
                listener.close()
            public = []
        if not public and time.monotonic() >= drained_at:
            state = "drained"
            if stopped:
                leave_at = 0.0
                if "ASKED" in SETTINGS:
                    event("had its signal " + ("last" if stopped[0] >= drained_at else "first"))
    if not stopped:
        event("gives up")
        sys.exit(3)
    event("gone")


def at_path(path: str) -> socket.socket:
    """Listen on a Unix socket, which is there when somebody may connect to it."""
    listener, unfinished = socket.socket(socket.AF_UNIX), f"{path}.{os.getpid()}"
    listener.bind(unfinished)
    listener.listen(16)
    Path(unfinished).rename(path)
    return listener


def at_port() -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind((ADDRESS, PORT))
    listener.listen(64)
    return listener


def main() -> None:
    if "SAYS" in SETTINGS:
        say(f"uses {SETTINGS['SAYS']}")
    if MISBEHAVE == "exit at start":
        event("does not find its database")
        sys.exit(1)
    listener = at_path(ADDRESS.removeprefix("unix:")) if ADDRESS.startswith("unix:") else at_port()
    serve(listener, at_path(ADMIN))


main()
