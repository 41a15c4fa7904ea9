"""What the documents say, taken apart: their code blocks, the commands in these, and the code in their sentences."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["ROOT", "Said", "blocks", "shell_commands", "spans"]

ROOT = Path(__file__).resolve().parents[2]
_DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
_BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


@dataclass(frozen=True)
class Said:
    """A piece of a document.

    Attributes
    ----------
    file : Path
    text : str
    environment : Mapping of str to str
        What the block of a command has exported before it.
    """

    file: Path
    text: str
    environment: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}: {' '.join(self.text.split())[:90]}"


def blocks(language: str) -> list[Said]:
    """The fenced blocks of a language."""
    return [
        Said(file, text)
        for file in _DOCUMENTS
        for found, text in _BLOCK.findall(file.read_text(encoding="utf-8"))
        if found == language
    ]


def spans() -> list[Said]:
    """What stands between backticks in sentences and tables."""
    return [
        Said(file, " ".join(span.replace("\\|", "|").split()))
        for file in _DOCUMENTS
        for span in _SPAN.findall(_ANY_BLOCK.sub("", file.read_text(encoding="utf-8")))
    ]


def shell_commands() -> list[Said]:
    """The commands of all shell blocks, without comments and without what is piped or redirected."""
    found = []
    for block in blocks("sh"):
        environment: dict[str, str] = {}
        for line in block.text.replace("\\\n", " ").splitlines():
            for words in _commands_of(line):
                if words[0] == "export":
                    environment.update(word.split("=", 1) for word in words[1:])
                else:
                    found.append(Said(block.file, shlex.join(words), dict(environment)))
    return found


def _commands_of(line: str) -> Iterator[list[str]]:
    # What the example's shell function runs on a device stands quoted behind its name.
    if inner := re.fullmatch(r"as_door '(.*)'", line.strip()):
        line = inner.group(1)
    try:
        words = shlex.split(line, comments=True)
    except ValueError:  # a line of that function, whose quotes span several
        return
    command: list[str] = []
    for word in words:
        if word in ("|", "<", ">", "2>", "&&", ";"):
            break
        command.append(word)
    if command:
        yield command
