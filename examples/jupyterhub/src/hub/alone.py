"""A hub without a proxy: whoever asks reaches the hub itself, and routes are noted for nobody."""

from typing import Any

from jupyterhub.proxy import Proxy


class Alone(Proxy):
    """Routes that are known to this process only."""

    should_start = False

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.routes: dict[str, dict[str, Any]] = {}

    async def add_route(self, routespec: str, target: str, data: dict[str, Any]) -> None:
        self.routes[routespec] = {"routespec": routespec, "target": target, "data": data}

    async def delete_route(self, routespec: str) -> None:
        self.routes.pop(routespec, None)

    async def get_all_routes(self) -> dict[str, dict[str, Any]]:
        return dict(self.routes)
