"""Reads the repository's Markdown: fenced blocks with the comment above them, links, commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "recipes").rglob("README.md")),
    *sorted((ROOT / "egs").rglob("README.md")),
]
_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w-]*)\s*$")
_COMMENT = re.compile(r"^\s*<!--\s*(?P<text>.*?)\s*-->\s*$")


@dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes
    ----------
    path : Path
    line : int
        Of its first line of content.
    language, text : str
    comment : str
        Of the HTML comment on the line above the fence, e.g. ``no-run``, ``run: --dry-run`` or
        ``file: losses.py``.
    """

    path: Path
    line: int
    language: str
    text: str
    comment: str = ""

    @property
    def name(self) -> str:
        return f"{self.path.relative_to(ROOT)}:{self.line}"


def blocks(path: Path, *languages: str) -> list[Block]:
    """Fenced blocks of a file, of some languages."""
    found, opened, comment, previous = [], None, "", ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if opened is None and (match := _FENCE.match(line)):
            opened, content = (number + 1, match["language"], len(match["indent"])), []
            above = _COMMENT.match(previous)
            comment = above["text"] if above else ""
        elif opened is not None and line.strip() == "```":
            first, language, _ = opened
            if not languages or language in languages:
                text = "".join(item + "\n" for item in content)
                found.append(Block(path, first, language, text, comment))
            opened = None
        elif opened is not None:
            content.append(line[opened[2] :])
        previous = line
    assert opened is None, f"{path}:{opened[0] - 1}: this block is never closed"
    return found


def prose(path: Path) -> str:
    """A file without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```\s*$", "", path.read_text(encoding="utf-8"), flags=re.M | re.S)


def executed(block: Block) -> bool:
    """Whether a shell block's commands are run, not parsed only."""
    return block.language == "bash" and block.comment.partition(":")[0] == "run"
