"""What a check found, and what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

__all__ = ["Finding", "FindingState"]

FindingState: TypeAlias = Literal["good", "note", "bad", "unknown"]


@dataclass(frozen=True)
class Finding:
    """One line of `immunecam doctor --device`.

    Attributes
    ----------
    part : str
    state : str
        "good"; "note" where it works, but may not for a year; "bad" where the door cannot depend on it; "unknown"
        where it was not asked for or this machine does not say.
    why : str
        What was found.
    todo : str
        What to do about it; empty where there is nothing.
    numbers : mapping
        What was measured, with units in the names.
    """

    part: str
    state: FindingState
    why: str
    todo: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A row of a report."""
        return {"part": self.part, "state": self.state, "why": self.why, "todo": self.todo, **self.numbers}
