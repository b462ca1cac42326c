"""The board as a person sees it: a real process, a real browser."""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait
from support.board import PASSWORD, PASSWORD_HASH, SECRET
from support.net import free_port
from support.tls_door import TLSDoor

pytestmark = pytest.mark.slow

FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1280,1000",
]


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.fail(
            f"{name} is not installed: this test needs a real browser (Debian: chromium, chromium-driver)",
            pytrace=False,
        )
    return path


class Server:
    """`python -m board` on one port; it can be replaced by another release."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, release: str) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "src"),
            "BOARD_COOKIE_SECRET": SECRET,
            "BOARD_PASSWORD_HASH": PASSWORD_HASH,
            "BOARD_DATA": str(self.folder / "data"),
            "RELEASE": release,
        }
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "board", f"--port={self.port}"],
                env=environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 15
        while True:
            try:
                with urllib.request.urlopen(self.url + "whoami", timeout=2):  # noqa: S310
                    return
            except OSError:
                assert self.process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.05)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path)
    try:
        running.start("1.0.0")
        yield running
    finally:
        running.stop()


@pytest.fixture
def trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Let the browsers of this test trust a CA, as an administrator installs one: in their user's database (NSS)."""
    database = tmp_path / "home" / ".pki" / "nssdb"
    database.mkdir(parents=True)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    words = [program("certutil"), "-d", f"sql:{database}"]
    subprocess.run([*words, "-N", "--empty-password"], check=True)

    def trust(ca: Path) -> None:
        subprocess.run([*words, "-A", "-n", ca.parent.name, "-t", "C,,", "-i", ca], check=True)

    return trust


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = program("chromium")
    for flag in [*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(program("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()
        # quit() leaves its connection pool to the garbage collector, which would report the sockets.
        driver.command_executor.close()


def console(browser: Chrome) -> list[str]:
    """Return what the browser has complained about since it was last asked."""
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] != "INFO"]


def test_a_visit(server: Server, browser: Chrome, tmp_path: Path) -> None:
    def text(selector: str) -> str:
        return browser.find_element(By.CSS_SELECTOR, selector).text

    def until(selector: str, expected: str) -> str:
        def seen(_: object) -> bool:
            return re.search(expected, text(selector)) is not None

        WebDriverWait(browser, 15, poll_frequency=0.05).until(seen, f"{selector} never showed {expected}")
        return text(selector)

    # The page says who answered, and nothing on it comes from anywhere else.
    assert server.process is not None
    browser.get(server.url)
    assert text("#host") == socket.gethostname()
    assert text("#port") == str(server.port)
    assert text("#pid") == str(server.process.pid)
    assert text("#release") == "1.0.0"
    loaded = browser.execute_script("return performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert loaded
    assert all(name.startswith((server.url, server.url.replace("http", "ws", 1))) for name in loaded)

    # The live view connects and measures; the poll asks.
    until("#state", "^connected$")
    until("#rtt", r"^\d+(\.\d)?$")
    until("#log", f"connected to {re.escape(socket.gethostname())}:{server.port}")
    until("#asked", "^8$")
    browser.find_element(By.ID, "ask").click()
    until("#asked", "^9$")
    assert text("#lost") == "0"
    assert text("#bars .count") == "9 · 100 %"

    # A wrong password, then the right one.
    browser.find_element(By.LINK_TEXT, "Log in").click()
    browser.find_element(By.ID, "password").send_keys("wrong\n")
    until("[role=alert]", "That is not the password")
    assert [line for line in console(browser) if "403" not in line] == []
    browser.find_element(By.ID, "password").send_keys(PASSWORD + "\n")
    until(".who", "Logged in")

    # A file goes up, is listed, and is still there on the next visit.
    (tmp_path / "hello <eye>.txt").write_text("calm in here")
    browser.find_element(By.ID, "file").send_keys(str(tmp_path / "hello <eye>.txt"))
    until("#note", "“hello _eye_.txt” is stored")
    assert "hello _eye_.txt" in text("#files")
    assert "12 bytes" in text("#files")
    browser.get(server.url)
    assert "hello _eye_.txt" in text("#files")
    assert (server.folder / "data" / "hello _eye_.txt").read_text() == "calm in here"
    until("#state", "^connected$")
    assert console(browser) == []

    # On a telephone nothing sticks out.
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True},
    )
    assert browser.execute_script("return document.documentElement.scrollWidth") == 360

    # Another release takes over: the page notices, comes back by itself, and says so.
    server.stop()
    until("#state", "^reconnecting$")
    server.start("1.1.0")
    until("#state", "^connected$")
    until("#log", r"release 1\.0\.0 → 1\.1\.0, .*reconnected in \d+ ms")
    assert text("#reconnects") == "1"


def test_over_tls_there_is_no_warning_and_websockets_work(
    server: Server, trusted: Callable[[Path], None], browser: Chrome, tmp_path: Path
) -> None:
    doors = []
    for name in ("door", "other"):
        (tmp_path / name).mkdir()
        doors.append(TLSDoor(tmp_path / name, server.port))
    door, other = doors
    trusted(door.ca)
    try:
        browser.get(f"{door.url}/")
        protocol = "return performance.getEntriesByType('navigation')[0].nextHopProtocol"
        assert browser.execute_script(protocol) == "h2"
        assert browser.execute_script("return window.isSecureContext")
        state = browser.find_element(By.ID, "state")
        WebDriverWait(browser, 15, poll_frequency=0.05).until(lambda _: state.text == "connected", "no WebSocket")
        assert console(browser) == []
        # the control: of a CA that it does not know it warns
        browser.get(f"{other.url}/")
        assert "ERR_CERT_AUTHORITY_INVALID" in browser.page_source
    finally:
        for one in doors:
            one.stop()
