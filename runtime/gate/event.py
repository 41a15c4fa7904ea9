"""What a gate says after it has looked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

__all__ = ["EVENTS", "EventKind", "GateEvent"]

EventKind: TypeAlias = Literal["granted", "denied", "no-face", "low-quality", "suspected-attack"]

EVENTS: tuple[EventKind, ...] = get_args(EventKind)


@dataclass(frozen=True)
class GateEvent:
    """A decision, as it stands in the audit trail.

    Attributes
    ----------
    event : str
        "granted", "denied", "no-face", "low-quality" or "suspected-attack".
    mode : str
        "verify" or "identify".
    person : str or None
        Who was let in; None unless granted.
    claimed : str or None
        Whom a 1:1 comparison was with.
    candidate : str or None
        Whose templates were nearest, let in or not.
    score, threshold : float or None
        None where nothing was compared.
    frames, used : int
        Frames that were looked at, and faces of them that the decision rests on.
    missed : int
        Frames since the face was last seen: above 0 where it was gone before there was enough of it to decide, so
        that a door opened now would open to nobody, or to somebody else.
    reasons : tuple of str
        Why a face was too poor, or the like; each as half a sentence.
    residual, cosine : float or None
        Medians of the evidence, see :class:`Evidence`.
    active : float or None
        Median number of active eigenfaces.
    liveness, liveness_threshold : float or None
        Median score of the liveness network, and the score that a live face needs; None where none was asked.
    latency_ms : float
        From the last frame to the decision; without what finding faces in it took.
    seq : int or None
        Number of the record in the audit trail.
    """

    event: EventKind
    mode: str
    person: str | None = None
    claimed: str | None = None
    candidate: str | None = None
    score: float | None = None
    threshold: float | None = None
    frames: int = 0
    used: int = 0
    missed: int = 0
    reasons: tuple[str, ...] = ()
    residual: float | None = None
    cosine: float | None = None
    active: float | None = None
    liveness: float | None = None
    liveness_threshold: float | None = None
    latency_ms: float = 0.0
    seq: int | None = field(default=None, compare=False)

    @property
    def granted(self) -> bool:
        """Whether to open."""
        return self.event == "granted"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without `seq` where there is none."""
        plain = {**vars(self), "reasons": list(self.reasons)}
        for name in ("score", "threshold", "residual", "cosine", "active", "liveness", "liveness_threshold"):
            if plain[name] is not None:
                plain[name] = round(float(plain[name]), 2 if name == "active" else 6)
        plain["latency_ms"] = round(self.latency_ms, 3)
        if self.seq is None:
            del plain["seq"]
        return plain
