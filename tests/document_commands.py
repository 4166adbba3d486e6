"""The commands that README, docs and help pages tell their readers to type."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


@dataclass(frozen=True)
class Typed:
    """A command as its reader types it."""

    page: str
    arguments: tuple[str, ...]  # after "lara-tok", without comment and redirection
    writes: str | None  # the file that its output is redirected to


def typed(page: str, line: str) -> Typed:
    """Split a line as a shell does."""
    words = shlex.split(line, comments=True)
    writes = words[words.index(">") + 1] if ">" in words else None
    return Typed(page, tuple(words[1 : words.index(">")] if ">" in words else words[1:]), writes)


def commands_of(page: Path) -> list[Typed]:
    """The `lara-tok` lines in the code blocks of a page."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), re.S | re.M)
    lines = [line.removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return [typed(page.name, line) for line in lines if line.startswith("lara-tok ")]


def commands_of_help(name: str, text: str) -> list[Typed]:
    """The examples of a help page; one may take several lines, indented alike."""
    examples = re.findall(r"^ *(lara-tok [^\n]*(?:\n +--[^\n]*)*)", text.partition("Examples:")[2], re.M)
    return [typed(f"lara-tok {name} --help", " ".join(example.split("\n"))) for example in examples]
