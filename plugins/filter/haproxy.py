"""What HAProxy's configuration is made of."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any


def error_pages(page: str, texts: Mapping[int, str]) -> list[dict[str, str]]:
    """HAProxy's error pages, as M(eyewall.tornado.files) takes them: one for each status of `texts`.

    `page` is one for nginx (SSI). HAProxy's is a log-format, in which a % is doubled and the request's id is a sample.
    """
    doubled = page.replace("%", "%%").replace('<!--# echo var="request_id" -->', "%[unique-id]")
    return [
        {
            "path": f"/etc/haproxy/errors/{status}.html",
            "content": doubled.replace('<!--# echo var="status" -->', str(status)).replace(
                '<!--# echo var="error_text" -->', text
            )
            + "\n",
        }
        for status, text in texts.items()
    ]


def balanced_applications(
    apps: Iterable[Mapping[str, Any]], hostvars: Mapping[str, Any], only: str | None = None
) -> list[dict[str, Any]]:
    """What HAProxy has to know of the site's applications, as the role takes it: from P(eyewall.tornado.apps#lookup).

    `only` is the host whose own front door it is, and which is asked on loopback.
    """

    def servers(app: Mapping[str, Any]) -> list[dict[str, str]]:
        if only:
            return [{"name": only, "address": f"127.0.0.1:{hostvars[only]['site_port']}"}]
        return [{"name": host, "address": hostvars[host]["site_server"]} for host in app["hosts"]]

    return [
        {
            "name": app["name"],
            "server_names": app["server_names"],
            "servers": servers(app),
            "health_path": app["health_path"],
            "health_host": first_name(app["server_names"]),
            "static_paths": ["/static/", "/favicon.ico", "/robots.txt"] if app["static"] else [],
        }
        for app in apps
    ]


def first_name(names: Sequence[str]) -> str:
    """The name that an application is asked by, where it has one; `localhost` where it answers any."""
    return names[0] if names and names[0] != "_" else "localhost"


def entries(
    apps: Iterable[Mapping[str, Any]], service: str, port: int, host: str | None = None, *, tls: bool = False
) -> list[dict[str, Any]]:
    """Where a host is asked for its applications, as M(eyewall.tornado.host_status) takes it: for those of `host`, or for all."""
    return [
        {
            "service": service,
            "port": port,
            "name": first_name(app["server_names"]),
            "path": app["health_path"],
            "tls": tls,
        }
        for app in apps
        if host is None or host in app["hosts"]
    ]


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "balanced_applications": balanced_applications,
            "entries": entries,
            "error_pages": error_pages,
            "first_name": first_name,
        }
