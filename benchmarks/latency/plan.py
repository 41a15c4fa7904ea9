"""What is measured, and how often: checked before anything runs."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from immunecam.errors import UsageError

__all__ = ["LatencyPlan", "cores_from_text", "usable_cores"]

_MAX_BATCH = 256


@dataclass(frozen=True)
class LatencyPlan:
    """A benchmark.

    Every combination of bundle, provider and number of threads gets processes of its own, `launches` times anew,
    because two processes of the same program differ by more than two blocks of one. Within a launch the processes
    measure blocks in turn, `rounds` times in a drawn order, so that what else the machine does meets them all.

    Attributes
    ----------
    bundles : tuple of Path
        What is to be measured.
    providers : tuple of str
        Backends, as for `Purifier.load`.
    threads : tuple of int
        Threads of a process; at most the cores that it may use.
    batches : tuple of int
        Aligned faces of a call, 1 to 256.
    pin : tuple of int, optional
        Cores that the processes are bound to; None lets the system move them.
    launches, rounds : int
        At least 1.
    block_s, warm_s : float
        Seconds of a block, and of work before the first one of a launch, which is not counted. More than 0.
    live_s : float
        Seconds for which the source, if it is a video, is a camera; 0 leaves that out.
    paper : bool
        Measure the published form beside it, which needs PyTorch.
    source : Path
        Picture, folder or video with faces on it.
    keys : tuple of Path, optional
        Public keys, one of which must have signed the bundles.
    state : Path, optional
        File of seen versions.

    Raises
    ------
    UsageError
        If a number is out of its range.
    """

    bundles: tuple[Path, ...]
    source: Path
    providers: tuple[str, ...] = ("auto",)
    threads: tuple[int, ...] = (1,)
    batches: tuple[int, ...] = (1,)
    pin: tuple[int, ...] | None = None
    launches: int = 5
    rounds: int = 4
    block_s: float = 0.25
    warm_s: float = 0.3
    live_s: float = 10.0
    paper: bool = False
    keys: tuple[Path, ...] | None = None
    state: Path | None = None

    def __post_init__(self) -> None:
        """Check everything at once."""
        for name in ("launches", "rounds"):
            if getattr(self, name) < 1:
                raise UsageError(f"the number of {name} is {getattr(self, name)}, but it must be 1 or more")
        for name, value in (("a block", self.block_s), ("the warm-up", self.warm_s)):
            if not 0 < value <= 3600:
                raise UsageError(f"{name} takes {value:g} s, but it must take more than 0 and at most 3600")
        if not 0 <= self.live_s <= 3600:
            raise UsageError(f"the live part takes {self.live_s:g} s, but it must take 0 to 3600")
        for name in ("bundles", "providers", "threads", "batches"):
            if not getattr(self, name):
                raise UsageError(f"there are no {name} to measure: give one or more")
        for batch in self.batches:
            if not 1 <= batch <= _MAX_BATCH:
                raise UsageError(f"the batch is {batch}, but it must be from 1 to {_MAX_BATCH} faces")
        cores = len(usable_cores() if self.pin is None else self.pin)
        for count in self.threads:
            if not 1 <= count <= cores:
                whose = "this process may use" if self.pin is None else "the processes are pinned to"
                raise UsageError(
                    f"the number of threads is {count}, but {whose} {cores} core{'s' * (cores > 1)}: "
                    f"use {f'1 to {cores}' if cores > 1 else '1'}"
                )


def usable_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def cores_from_text(text: str) -> tuple[int, ...]:
    """Cores of a list such as "0,2-3".

    Raises
    ------
    UsageError
        If it is no such list, a core is not one that this process may use, or this system cannot pin.
    """
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("this system cannot pin a process to cores: leave --pin out")
    if not re.fullmatch(r"\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*", text):
        raise UsageError(f"the cores to pin to are {text!r}, but they must be a list such as 0,2-3")
    wanted: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        wanted.update(range(int(first), int(last or first) + 1))
    usable = set(usable_cores())
    if not wanted or not wanted <= usable:
        said = ",".join(map(str, sorted(usable)))
        raise UsageError(f"the cores to pin to are {text!r}, but this process may use {said}: choose among these")
    return tuple(sorted(wanted))
