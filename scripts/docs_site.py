"""A hook of mkdocs: the site has the paths of the repository, so that a link works in both.

A page is a document of docs/, or another of the repository's that the navigation names. Whatever else of the repository a page
links to becomes a page that shows the file, or is copied if it is an image.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

REPOSITORY = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\]\(([^)\s#:]+)(?:#[^)\s]*)?\)")
LANGUAGES = {".j2": "jinja", ".py": "python", ".toml": "toml", ".yml": "yaml"}


class Source(File):  # type: ignore[misc]
    """A file of the repository that is no document, shown on a page of its own that search does not find."""

    def is_documentation_page(self) -> bool:
        return True

    @property
    def content_string(self) -> str:
        path, fence = Path(self.src_uri), "`" * 6
        language = LANGUAGES.get(path.suffix, "text")
        text = (REPOSITORY / path).read_text(encoding="utf-8")
        return f"---\nsearch: {{exclude: true}}\n---\n# {path}\n\n{fence} {language}\n{text.rstrip()}\n{fence}\n"


def named(entry: object) -> Iterator[str]:
    """Yield the paths of a navigation."""
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, list | dict):
        for part in entry if isinstance(entry, list) else entry.values():
            yield from named(part)


def linked(page: str) -> Iterator[str]:
    """Yield the paths of the repository's files that a page links to or shows."""
    for target in LINK.findall((REPOSITORY / page).read_text(encoding="utf-8")):
        path = (REPOSITORY / page).parent.joinpath(target).resolve()
        if path.is_file() and path.is_relative_to(REPOSITORY):
            yield str(path.relative_to(REPOSITORY))


def file_of(path: str, config: MkDocsConfig) -> File:
    at = (path, str(REPOSITORY), config.site_dir, True)
    if Path(path).suffix in {".css", ".svg"}:
        return File(*at)
    if Path(path).suffix != ".md":
        return Source(*at, dest_uri=f"source/{path}/index.html", inclusion=InclusionLevel.NOT_IN_NAV)
    return File(*at, dest_uri=f"{Path(path).stem}/index.html" if path.startswith("docs/") else None)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Replace what mkdocs found in docs/ by the pages, and what they link to; the theme's files stay."""
    theme = [file for file in files if not Path(str(file.abs_src_path)).is_relative_to(config.docs_dir)]
    pages = {f"docs/{file.src_uri}" for file in files.documentation_pages()} | {*named(config.nav)}
    found = (
        pages
        | {*map(str, config.extra_css)}
        | {path for page in pages if (REPOSITORY / page).is_file() for path in linked(page)}
    )
    return Files([*theme, *(file_of(path, config) for path in sorted(found) if (REPOSITORY / path).is_file())])
