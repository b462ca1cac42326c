"""nginx' configuration as a tree."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_TOKEN = re.compile(r"""\s+|\#[^\n]*|(?P<word>"(?:\\.|[^"])*"|'(?:\\.|[^'])*'|[{};]|[^\s{};"'#][^\s{};]*)""")


@dataclass
class Block:
    """A block, or the whole file: its words (`server`, `location /`) and what stands in it, in order."""

    words: list[str] = field(default_factory=list)
    directives: list[list[str]] = field(default_factory=list)
    blocks: list["Block"] = field(default_factory=list)

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
    """Return the tree of a configuration's text. AssertionError where a brace or semicolon is wrong."""
    tokens = _words(text)
    tree = _block([], tokens, top=True)
    assert next(tokens, None) is None
    return tree


def _words(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        assert match, f"nothing of nginx: {text[at : at + 40]!r}"
        at = match.end()
        if match["word"]:
            yield match["word"]


def _block(words: list[str], tokens: Iterator[str], *, top: bool = False) -> Block:
    block, statement = Block(words), []
    for token in tokens:
        if token == "{":
            assert statement, "a block without a name"
            block.blocks.append(_block(statement, tokens))
            statement = []
        elif token == "}":
            assert not top, "a brace too many"
            assert not statement, f"no semicolon after '{' '.join(statement)}'"
            return block
        elif token == ";":
            assert statement, "a semicolon after nothing"
            block.directives.append(statement)
            statement = []
        else:
            statement.append(token)
    assert top, f"'{' '.join(words)}' is not closed"
    assert not statement, f"no semicolon after '{' '.join(statement)}'"
    return block
