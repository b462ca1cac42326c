"""A kind of host, as the build sees it: its Python, its architecture and its C library."""

from collections.abc import Mapping


def target_name(target: Mapping[str, str]) -> str:
    """What directories of such hosts are called; `target` is what tornado_app_preflight returned."""
    return f"py{target['python_full']}-{target['machine']}-glibc{target['glibc']}"
