"""What the commands share that measure for hours: work in parts, and pages of an earlier report."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from immunecam.errors import UsageError

__all__ = ["check_page", "part_of", "say_part", "write_pages_of"]


def check_page(docs: Path | None) -> None:
    """Refuse the name of a Markdown page that leaves no name for the folder of its plots.

    Raises
    ------
    UsageError
    """
    if docs is not None and not docs.suffix:
        raise UsageError(f"the page to write is {str(docs)!r}: give a file such as {docs.name}.md; plots go beside it")


def part_of(text: str | None) -> tuple[int, int] | None:
    """I and N of "I/N"; None of None.

    Raises
    ------
    UsageError
        If it is something else.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= index <= parts:
        raise UsageError(f"the part is {text!r}, but it must be I/N with I from 1 to N, such as 1/4")
    return index, parts


def say_part(console: Console, part: str | None, work: Path) -> None:
    """Say that a part is done, and how the whole is made of all."""
    console.print(
        f"part {part} is done; to finish, run with the same arguments, without --part and with --merge {work}",
        highlight=False,
        soft_wrap=True,
    )


def write_pages_of(
    report: Path,
    docs: Path | None,
    html: Path | None,
    *,
    load: Callable[[Path], dict[str, Any]],
    write: Callable[[dict[str, Any], Path | None, Path | None], None],
    console: Console,
) -> None:
    """Write the pages of an earlier report: `--page-of`.

    Raises
    ------
    UsageError
        If no page is named.
    InputError
        If the report cannot be read, or a page not be written.
    """
    if docs is None and html is None:
        raise UsageError("--page-of needs --docs PAGE or --html PAGE: say where the page goes")
    write(load(report), docs, html)
    console.print(f"wrote {', '.join(str(page) for page in (docs, html) if page)}", highlight=False, soft_wrap=True)
