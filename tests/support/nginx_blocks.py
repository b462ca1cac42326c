"""nginx's configuration as a tree, read by crossplane (of its maintained fork, ngxparse).

Arguments are what nginx takes them for: without the quotes around them, and without the parentheses of an ``if``.
"""

from dataclasses import dataclass
from typing import Any

import crossplane


@dataclass
class Block:
    """A block, or the whole file: its words (`server`, `location /`) and what stands in it, in order."""

    words: list[str]
    directives: list[list[str]]
    blocks: list["Block"]

    def get(self, name: str) -> list[str]:
        """Return the arguments of a directive that stands here once."""
        found = self.all(name)
        assert len(found) == 1, f"{name} stands {len(found)} times in '{' '.join(self.words)}'"
        return found[0]

    def all(self, name: str) -> list[list[str]]:
        return [words[1:] for words in self.directives if words[0] == name]

    def has(self, name: str) -> bool:
        return bool(self.all(name))

    def block(self, *words: str) -> "Block":
        """Return the one block with these words."""
        found = [block for block in self.blocks if block.words == list(words)]
        assert len(found) == 1, f"'{' '.join(words)}' stands {len(found)} times"
        return found[0]

    def named(self, name: str) -> list["Block"]:
        return [block for block in self.blocks if block.words[0] == name]


def parse(text: str) -> Block:
    """Return the tree of a configuration's text. AssertionError where nginx would not read it."""
    parsed = crossplane.parse_string(text, single=True)
    assert not parsed["errors"], parsed["errors"]
    return _block([], parsed["config"][0]["parsed"])


def _block(words: list[str], statements: list[dict[str, Any]]) -> Block:
    block = Block(words, [], [])
    for statement in statements:
        words = [statement["directive"], *statement["args"]]
        if "block" in statement:
            block.blocks.append(_block(words, statement["block"]))
        else:
            block.directives.append(words)
    return block
