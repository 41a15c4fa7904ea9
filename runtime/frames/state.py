"""How a live source is: what a device shows, logs and acts on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["SourceState", "SourceStatus"]


class SourceState(str, Enum):
    """Of a live source.

    `CONNECTED` gives frames. `STALLED` is connected and silent. `RECONNECTING` has lost its connection, or never had
    one, and tries again. `ENDED` was closed, came to its end, or has given up.
    """

    CONNECTED = "connected"
    STALLED = "stalled"
    RECONNECTING = "reconnecting"
    ENDED = "ended"


@dataclass(frozen=True)
class SourceStatus:
    """A live source at one moment.

    Attributes
    ----------
    state : SourceState
    since_s : float
        Seconds that it has been so.
    why : str
        Why it was lost or silent the last time, "" as long as it never was.
    frames, dropped : int
        Frames that were read, and those of them that nobody took before the next one came.
    reconnections, size_changes : int
        Connections after the first, and frames of another size than the one before.
    age_s : float or None
        Of the newest frame; None before the first.
    width, height : int
        Pixels of the newest frame; 0 before the first.
    """

    state: SourceState
    since_s: float
    why: str
    frames: int
    dropped: int
    reconnections: int
    size_changes: int
    age_s: float | None
    width: int
    height: int

    def to_dict(self) -> dict[str, object]:
        """Plain values for JSON."""
        return {
            **vars(self),
            "state": self.state.value,
            "since_s": round(self.since_s, 3),
            "age_s": None if self.age_s is None else round(self.age_s, 3),
        }

    def __str__(self) -> str:
        why = f" ({self.why})" if self.why and self.state is not SourceState.CONNECTED else ""
        return f"{self.state.value} for {self.since_s:.1f} s{why}, {self.frames} frames, {self.dropped} dropped"
