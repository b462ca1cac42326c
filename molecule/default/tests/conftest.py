"""The hosts of the scenario, and clients that ask them as a user's browser would: through nginx, from outside."""

import contextlib
import functools
import http.client
import json
import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

import pytest
import testinfra
import yaml
from support import REPOSITORY
from support.inside import inside
from support.waiting import until

INVENTORY = REPOSITORY / "molecule" / "inventory" / "default.yml"
PASSWORD = "molecule"  # of molecule/inventory/group_vars/board/vault.yml

# Asks a process on its admin socket, from within the host: it has no curl.
ASK = """
import http.client, socket, sys
connection = http.client.HTTPConnection("localhost", timeout=5)
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
connection.request("GET", sys.argv[2])
print(connection.getresponse().read().decode())
"""


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, list[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """All values of a header in one, as a cache reads them; None where it is absent."""
        values = self.headers.get(name.lower())
        return ", ".join(values) if values else None

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Traffic:
    """Requests from several clients, each on its kept-alive connection, every one of them counted."""

    port: int
    method: str = "GET"
    clients: int = 4
    answers: Counter[int] = field(default_factory=Counter)  # by the PID that answered
    lost: list[str] = field(default_factory=list)
    # idempotent requests sent again because a kept-alive connection was closed before any of their answer (RFC 9112, 9.3.1)
    resent: list[str] = field(default_factory=list)

    def __enter__(self) -> "Traffic":
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        with contextlib.closing(connection):  # which connects again after a close
            while not self._ended.is_set():
                kept = connection.sock is not None
                try:
                    connection.request(self.method, "/whoami")
                    response = connection.getresponse()
                    body = response.read()
                except (OSError, http.client.HTTPException) as error:
                    connection.close()
                    fair = kept and self.method == "GET" and isinstance(error, ConnectionResetError | BrokenPipeError)
                    (self.resent if fair else self.lost).append(repr(error))
                else:
                    if response.status == 200:
                        self.answers[json.loads(body)["pid"]] += 1
                    else:
                        self.lost.append(f"{response.status} {body[:100]!r}")
                # some two hundred a second from all clients: enough to hit every moment, and the machine still works
                time.sleep(0.015)


@dataclass(frozen=True)
class Site:
    name: str
    container: str
    port: int
    host: testinfra.host.Host

    def request(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            response = connection.getresponse()
            found: dict[str, list[str]] = {}
            for name, value in response.getheaders():
                found.setdefault(name.lower(), []).append(value)
            return Answer(response.status, found, response.read())
        finally:
            connection.close()

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self.request("GET", path, headers)

    def signed_in(self) -> dict[str, str]:
        """The headers of a client that has signed in, cookies and XSRF token."""
        form = self.get("/login")
        cookies = SimpleCookie("; ".join(form.headers["set-cookie"]))
        token = cookies["_xsrf"].value
        answer = self.request(
            "POST",
            "/login",
            {
                "Cookie": f"_xsrf={token}",
                "X-XSRFToken": token,
                "Content-Type": "application/x-www-form-urlencoded",
            },
            f"password={PASSWORD}".encode(),
        )
        assert answer.status == 303, answer
        cookies.load("; ".join(answer.headers["set-cookie"]))
        return {
            "Cookie": "; ".join(f"{name}={morsel.value}" for name, morsel in cookies.items()),
            "X-XSRFToken": token,
        }

    def sh(self, command: str, *arguments: object) -> str:
        """What a command prints on the host; each %s in it is an argument, quoted for the shell."""
        output: str = self.host.check_output(command, *map(str, arguments))
        return output

    @property
    def generation(self) -> str:
        return self.sh("basename $(readlink /opt/board/current)")

    def ask(self, port: int, what: str) -> str:
        """What the process on a port says on its admin socket."""
        return self.sh("python3 -c %s /run/board/%s-%s.sock %s", ASK, self.generation, port, what)

    def is_ready(self, port: int) -> bool:
        return json.loads(self.ask(port, "/ready"))["state"] == "ready"

    def processes(self) -> list[dict[str, Any]]:
        manifest = json.loads(self.host.file("/opt/board/current/generation.json").content_string)
        return [json.loads(self.ask(port, "/status")) for port in manifest["ports"]]

    def play(self, *arguments: str, playbook: str = "site.yml") -> subprocess.CompletedProcess[str]:
        """Run a playbook on this host."""
        return subprocess.run(
            ["ansible-playbook", playbook, "--inventory", str(INVENTORY), "--limit", self.name, *arguments],
            cwd=REPOSITORY,
            env={**os.environ, "ANSIBLE_CONFIG": str(REPOSITORY / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"},
            capture_output=True,
            text=True,
            check=False,
        )


patiently = functools.partial(until, despite=(OSError, AssertionError, http.client.HTTPException))


@pytest.fixture(scope="session", name="until")
def until_fixture() -> Callable[..., Any]:
    """Wait for what a host says, also where it does not answer yet."""
    return patiently


@pytest.fixture(scope="session", name="open_files_limit")
def open_files_limit_fixture() -> int:
    """What inventory/local/group_vars/all/open_files.yml makes of this machine."""
    hard = subprocess.run(["sh", "-c", "ulimit -Hn"], capture_output=True, text=True, check=True).stdout.strip()
    return 50000 if hard == "unlimited" else min(50000, int(hard))


def inventory() -> dict[str, Any]:
    group: dict[str, Any] = yaml.safe_load(INVENTORY.read_text(encoding="utf-8"))["board"]
    return group


@pytest.fixture(scope="session", params=sorted(inventory()["hosts"]))
def site(request: pytest.FixtureRequest) -> Site:
    group = inventory()
    container = f"{group['vars']['local_containers_name']}-{request.param}"
    port = int(group["hosts"][request.param]["local_containers_publish"][0].split(":")[1])
    return Site(request.param, container, port, inside(container))


@pytest.fixture(scope="session")
def sites() -> dict[str, dict[str, Any]]:
    hosts: dict[str, dict[str, Any]] = inventory()["hosts"]
    return hosts


@pytest.fixture
def traffic(site: Site) -> Iterator[Callable[..., Traffic]]:
    """Makes traffic to the site; what it lost is the test's to judge."""

    def make(**options: Any) -> Traffic:
        return Traffic(site.port, **options)

    yield make
    # the next test starts with a whole site
    patiently(lambda: site.get("/whoami").status == 200)
    patiently(lambda: all(process["state"] == "ready" for process in site.processes()))
