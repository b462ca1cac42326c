"""Sites of others in a host's nginx go on beside ours, or are refused by name."""

from typing import Any

import pytest
from support.product import load_module

module = load_module("nginx_preflight")
SITE = "/etc/nginx/sites-enabled/shop"
OURS: dict[str, Any] = {"port": 80, "names": ["www.example.com", "localhost"], "sandbox": True}


def mistakes(text: str, file: str = SITE, **given: Any) -> list[str]:
    """What is wrong with a site, in a configuration as `nginx -T` prints it."""
    ours = "http { server { listen 80 default_server; server_name _ www.example.com; } }\n"
    dump = f"# configuration file /etc/nginx/.eyewall-preflight.conf:\n{ours}\n# configuration file {file}:\n{text}\n"
    found: list[str] = module.mistakes(dump, OURS | given)
    return found


@pytest.mark.parametrize(
    "text",
    [
        "server { listen 80; listen [::]:80; server_name shop.example; root /srv/shop; }",
        "server { server_name shop.example; }  # listen is 80",
        # another port is theirs alone
        "server { listen 8088 default_server; location / { proxy_pass http://127.0.0.1:9090; } }",
        "server { listen 127.0.0.1:8088; listen unix:/run/shop.sock; server_name localhost; }",
        "server { listen 443 ssl; server_name www.example.com; ssl_certificate /etc/ssl/shop.pem; }",
        "map $host $shop { default 1; } upstream shop { server 127.0.0.1:9090; }",
        "proxy_cache_path /var/lib/nginx/shop keys_zone=shop:1m; access_log /var/log/nginx/shop.log;",
        "server { listen 80; server_name shop.example; access_log off; error_log syslog:server=unix:/dev/log; }",
        "log_format shop '{ \"$host\" ; }'; # server { listen 80; }",
    ],
)
def test_what_stands_beside_our_site(text: str) -> None:
    assert mistakes(text) == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("server { listen 80 default_server; server_name a; }", f"got 80 on HOST, where {SITE} is the default_server;"),
        ("server { listen 80; }", f"nginx_port: got 80 on HOST, where {SITE} has a server without a server_name,"),
        ("server { server_name _; }", f"nginx_port: got 80 on HOST, where {SITE} has a server without a server_name,"),
        ("server { listen 10.0.0.7:80; server_name a; }", f"where {SITE} listens on 10.0.0.7:80 alone"),
        ("server { listen 127.0.0.1; server_name a; }", f"where {SITE} listens on 127.0.0.1 alone"),
        ("server { server_name a WWW.example.com; }", f"got www.example.com on HOST, which {SITE} has on port 80"),
        ("server { server_name a; root /home/ann/shop; }", f"got true on HOST, where {SITE} has 'root /home/ann/shop',"),
        ("access_log /srv/shop.log;", f"nginx_sandbox: got true on HOST, where {SITE} has 'access_log"),
        ("proxy_cache_path /var/cache/shop keys_zone=a:1m;", "has 'proxy_cache_path /var/cache/shop',"),
    ],
)  # fmt: skip
def test_what_cannot_stand_beside_our_site(text: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.socket, "gethostname", lambda: "HOST")
    (found,) = mistakes(text)
    assert sentence in found
    assert "; expected " in found


def test_without_the_sandbox_nothing_of_it_is_asked() -> None:
    assert mistakes("access_log /srv/shop.log;", sandbox=False) == []


def test_each_server_of_a_file_is_looked_at() -> None:
    text = "server { server_name a; location / { return 204; } } server { listen 80; } server { listen 8088; }"
    assert len(mistakes(text)) == 1
    assert mistakes(text, port=8088)[0].startswith("nginx_port: got 8088")


def test_files_that_are_not_others_are_not_looked_at() -> None:
    assert mistakes("server { listen 80; }", file="/etc/nginx/modules-enabled/50-mod.conf") == []
