"""What a command shows of its progress: on stderr, so that what it says can be piped."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["bar", "bars", "counter", "named_bars", "one_bar"]

_Step = Callable[[int, int], None]
_Named = Callable[[str, int, "int | None"], None]


def bars(*, hidden: bool = False) -> Progress:
    """Several bars below each other, with the time that is left; each task has a `state`."""
    return Progress(
        TextColumn("{task.description:12}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[state]}", markup=False),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=hidden,
    )


def bar(progress: Progress, name: str) -> _Step:
    """A new one of `bars`, moved by (done, total)."""
    task = progress.add_task(name, total=None, state="")
    return lambda done, total: progress.update(task, completed=done, total=total)


def named_bars(progress: Progress) -> Callable[[str, int, int], None]:
    """Of `bars` one for each name, new when it is first moved, by (name, done, total)."""
    found: dict[str, _Step] = {}

    def move(name: str, done: int, total: int) -> None:
        if name not in found:
            found[name] = bar(progress, name)
        found[name](done, total)

    return move


@contextlib.contextmanager
def one_bar(first: str = "reading", *, transient: bool = False) -> Iterator[_Named]:
    """One bar with the time that has gone, for work in many steps: moved by (what is done now, done, total).

    Parameters
    ----------
    first : str
        What it says until it is moved.
    transient : bool
        Take it away at the end.
    """
    progress = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=transient,
    )
    with progress:
        task = progress.add_task(first, total=None)
        yield lambda what, done, total: progress.update(task, description=what, completed=done, total=total)


def counter() -> Progress:
    """A plain bar that goes away, for things that are counted off."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        console=Console(stderr=True),
        transient=True,
    )
