"""benchmarks/deploys.py counts honestly: tasks, seconds, lost requests, and a deploy that did not arrive."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import deploys
import pytest
from proof import Request


@pytest.fixture
def site(tmp_path: Path) -> deploys.Site:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text("app:\n  hosts:\n    h1: {ansible_connection: local}\n    h2: {ansible_connection: local}\n")
    return deploys.Site(inventory)


def test_tasks_of_every_host_are_counted(site: deploys.Site, tmp_path: Path) -> None:
    play = tmp_path / "play.yml"
    one = "- hosts: all\n  gather_facts: false\n  tasks:\n    - debug:\n    - debug:\n      when: false\n    - debug:\n"
    play.write_text(one)
    assert site.hosts == ["h1", "h2"]
    assert not site.is_fleet
    assert site.play(play).tasks == 4
    play.write_text(one + "    - fail:\n        msg: no room\n")
    with pytest.raises(deploys.FailedError, match=r"(?s)ended with status 2:.*no room"):
        site.play(play)


def test_a_command_has_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploys, "TIMEOUT", 0.2)
    with pytest.raises(deploys.FailedError, match=r"sleep 5 took longer than 0.2 s"):
        deploys.run("sleep", "5")


def test_lost_requests_are_counted_and_web_sockets_are_not() -> None:
    fates = [("GET kept", "answered"), ("POST new", "lost"), ("WebSocket", "lost"), ("WebSocket message", "answered")]
    requests = [Request(kind, "door", 0, 1, fate) for kind, fate in fates]
    run = deploys.counted(deploys.Run(3.0, 7), SimpleNamespace(report=SimpleNamespace(requests=requests)))  # type: ignore[arg-type]
    assert run == deploys.Run(3.0, 7, requests=2, lost=1)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"testapp.css?v=old")

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setitem(deploys.DOORS, "Eyewall", f"http://127.0.0.1:{server.server_port}")
        for name in ("BEFORE", "AFTER"):
            monkeypatch.setattr(deploys, name, 0.1)
        yield
        server.shutdown()


@pytest.mark.usefixtures("door")
def test_a_deploy_that_did_not_arrive_is_no_deploy() -> None:
    with deploys.under_traffic("Eyewall", "v=old") as traffic:
        pass
    assert traffic.report.requests
    with (
        pytest.raises(deploys.FailedError, match="does not answer with the release"),
        deploys.under_traffic("Eyewall", "v=new"),
    ):
        pass
