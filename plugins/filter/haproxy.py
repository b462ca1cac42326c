"""What HAProxy's configuration is made of."""

from collections.abc import Callable, Mapping
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


class FilterModule:
    def filters(self) -> dict[str, Callable[..., Any]]:
        return {"error_pages": error_pages}
