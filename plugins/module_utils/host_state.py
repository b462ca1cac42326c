"""A host beside the generation that it is to run: what is missing, what is too much, and whether anything differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible_collections.eyewall.tornado.plugins.module_utils.directories import missing
from ansible_collections.eyewall.tornado.plugins.module_utils.groups import GONE, Groups, has_supervisor, watch
from ansible_collections.eyewall.tornado.plugins.module_utils.layout import Damaged
from ansible_collections.eyewall.tornado.plugins.module_utils.strangers import Stranger, Watch


def is_bare(root: Path) -> bool:
    """Whether a host has no supervisor or nothing of the application, as before its first deploy."""
    return not (has_supervisor() and (root / "generations").exists())


class HostState(Groups):
    """What a host runs, compared with a wanted generation. It only asks.

    `params` are a module's, beside those of `Groups`: generation, user, survivors, directories, and surplus (C(keep) or C(stop)).
    """

    def __init__(self, params: dict[str, Any]) -> None:
        super().__init__(params)
        self.generation: str = params["generation"]
        self.ports = self.ports_of(self.generation)
        self.watch: Watch | None = None
        if params["user"]:
            ports = {*self.ports, *self.ports_of(self.current or "")}
            self.watch = watch(self.rpc, params["user"], ports, params["survivors"])

    def ports_of(self, generation: str) -> list[int]:
        """The ports of a generation; none where it is not on the host."""
        try:
            ports: list[int] = self.manifest(generation)["ports"]
        except Damaged:  # its processes may run on
            return sorted(port for group, port in self.states() if group == generation)
        return ports

    def others(self) -> list[str]:
        """Groups of this application that supervisord knows beside the wanted one."""
        return sorted({group for group, _ in self.states()} - {self.generation})

    def to_do(self) -> list[int]:
        """The ports on which the wanted generation does not answer yet."""
        return [port for port in self.ports if not self.is_ready(self.generation, port)]

    def surplus(self) -> list[str]:
        """Processes of other generations on ports that the wanted one does not have; none before it is on the host."""
        return sorted(
            f"{group}:{port}"
            for (group, port), info in self.states().items()
            # what an interrupted smoke test left is out of rotation: nginx never named it
            if group != self.generation and not group.endswith("-proof")
            if self.ports and port not in self.ports and info["statename"] not in GONE
        )

    def kept(self) -> set[str]:
        """The surplus that is to go on for now."""
        return set(self.surplus()) if self.params["surplus"] == "keep" else set()

    def is_done(self) -> bool:
        if self.current != self.generation or self.layout.boot_damage() or self.to_do():
            return False
        if not self.layout.date(self.generation):  # made again after damage, or interrupted on its last step
            return False
        if (file := self.params.get("directories")) and missing(Path(file)):
            return False
        surplus = self.kept()
        running = {f"{group}:{port}" for (group, port), info in self.states().items() if info["statename"] not in GONE}
        if running - surplus - {f"{self.generation}:{port}" for port in self.ports}:
            return False
        if not set(self.others()) <= {name.partition(":")[0] for name in surplus}:
            return False
        return not self.strangers("left")

    def strangers(self, kind: str) -> list[Stranger]:
        return [one for one in self.watch.strangers() if one.kind == kind] if self.watch else []
