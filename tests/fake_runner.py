"""A stand-in for the runner that starts in no time and misbehaves on demand.

It takes the runner's command line. The settings file says what else it does: MISBEHAVE is one of
`never ready`, `exit at start`, `exit after ready` and `ignore SIGTERM`, BAD_PORT the only port on which it
does, DRAIN how many seconds it takes to leave (DRAIN_PORT the only port on which it takes any), EVENTS the
file that it writes what it does to, LOCK a file that pollers lock while they connect. See test_tornado_app_generation.py.
"""

import fcntl
import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path


def option(name: str) -> str:
    return sys.argv[sys.argv.index(name) + 1]


PORT, ADMIN, GENERATION = int(option("--port")), option("--admin"), option("--generation")
SETTINGS = json.loads(Path(option("--settings")).read_text())
DRAIN = float(SETTINGS.get("DRAIN", "0")) if SETTINGS.get("DRAIN_PORT", str(PORT)) == str(PORT) else 0.0
MISBEHAVE = SETTINGS.get("MISBEHAVE", "") if SETTINGS.get("BAD_PORT", str(PORT)) == str(PORT) else ""


def event(what: str) -> None:
    sys.stdout.write(f"fake runner {GENERATION} on {PORT}: {what}\n")
    sys.stdout.flush()
    with Path(SETTINGS["EVENTS"]).open("a") as file:
        file.write(f"{GENERATION} {PORT} {what}\n")


def answer(connection: socket.socket, content: str) -> None:
    try:
        connection.settimeout(2)
        request = b""
        while b"\r\n\r\n" not in request:
            if not (piece := connection.recv(4096)):
                return
            request += piece
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content)}\r\nConnection: close\r\n\r\n"
        connection.sendall(f"{head}{content}".encode())
    except OSError:
        return
    finally:
        connection.close()


def serve(listener: socket.socket, admin: socket.socket) -> None:
    """Answer until SIGTERM, then leave as the runner does: what waits in the accept queue is answered."""
    stopped: list[float] = []
    if MISBEHAVE != "ignore SIGTERM":
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(time.monotonic()))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    state = "starting" if MISBEHAVE == "never ready" else "ready"
    event(state)
    leave_at = time.monotonic() + 0.3 if MISBEHAVE == "exit after ready" else float("inf")
    public = [listener]
    while time.monotonic() < leave_at:
        for ready in select.select([*public, admin], [], [], 0.02)[0]:
            connection, _ = ready.accept()
            answer(
                connection,
                GENERATION if ready is listener else json.dumps({"state": state, "generation": GENERATION}),
            )
        if stopped and public:
            state, leave_at = "draining", time.monotonic() + DRAIN
            event("leaving")
            # What the kernel's tcp_migrate_req does: nobody connects between the last accept and the close.
            with Path(SETTINGS["LOCK"]).open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                while select.select([listener], [], [], 0)[0]:
                    answer(listener.accept()[0], GENERATION)
                listener.close()
            public = []
    if not stopped:
        event("gives up")
        sys.exit(3)
    event("gone")


def main() -> None:
    if MISBEHAVE == "exit at start":
        event("does not find its database")
        sys.exit(1)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listener.bind(("127.0.0.1", PORT))
    listener.listen(64)
    admin, unfinished = socket.socket(socket.AF_UNIX), f"{ADMIN}.{os.getpid()}"
    admin.bind(unfinished)
    admin.listen(16)
    Path(unfinished).rename(ADMIN)
    serve(listener, admin)


main()
