"""What others wrote, made fit for a terminal."""

from ansible_collections.eyewall.tornado.plugins.module_utils.text import plain


class FilterModule:
    """The filter `plain`."""

    def filters(self) -> dict[str, object]:
        return {"plain": plain}
