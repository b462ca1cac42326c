"""A front door with TLS on this machine: the role's HAProxy before a process, with a certificate of a CA of the test's own."""

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

from support.net import free_port
from support.product import plugin, render, with_error_pages
from support.waiting import until

HAPROXY = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
certificates = plugin("plugin_utils", "certificates")


class TLSDoor:
    """HAProxy in `folder`, before the server that listens on 127.0.0.1 and `port`; `url` is its door, `ca` the CA's file."""

    def __init__(self, folder: Path, port: int, **given: Any) -> None:
        self.folder, self.plain, self.port, self.socket = folder, free_port(), free_port(), folder / "s"
        self.authority = certificates.SiteAuthority.make(folder / "ca", "CA of a test")
        self.ca, self.pem = folder / "ca" / "ca.pem", folder / "board.pem"
        self.pem.write_text(self.issue())
        servers = [{"name": "app1", "address": f"127.0.0.1:{port}"}]
        text = render(
            "haproxy/etc/haproxy/haproxy.cfg.j2",
            haproxy_applications=[{"name": "app", "server_names": ["_"], "servers": servers}],
            **{"haproxy_certificates": [str(self.pem)], "haproxy_tls_port": self.port, "haproxy_port": self.plain,
               "haproxy_stats_port": free_port(), "haproxy_ipv6": False, **given},
        )  # fmt: skip
        # what only root may, and what belongs to the machine
        text = re.sub(r"(?m)^ +(user|group|chroot|log stdout) .*\n", "", text)
        text = text.replace("/run/haproxy/admin.sock user root group root", str(self.socket))
        (folder / "cfg").write_text(with_error_pages(text, folder))
        assert HAPROXY
        with (folder / "said").open("w") as said:
            self.process = subprocess.Popen([HAPROXY, "-W", "-f", folder / "cfg"], stderr=said)
        until(lambda: "app1" in self.ask("show stat"), "HAProxy to answer")

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    def issue(self, *names: str) -> str:
        """PEM of a new certificate with its key, for loopback if no names are given."""
        pem: str = self.authority.issue(names or ("127.0.0.1", "localhost")).pem()
        return pem

    def ask(self, command: str) -> str:
        """What HAProxy answers on its runtime socket; nothing while there is none."""
        with socket.socket(socket.AF_UNIX) as runtime:
            runtime.settimeout(5)
            try:
                runtime.connect(str(self.socket))
            except (FileNotFoundError, ConnectionRefusedError):
                return ""
            runtime.sendall(f"{command}\n".encode())
            return b"".join(iter(lambda: runtime.recv(65536), b"")).decode()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
