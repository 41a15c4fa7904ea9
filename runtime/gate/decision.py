"""What a gate makes of a face that it has followed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.runtime.gate.event import EventKind, GateEvent
from immunecam.runtime.gate.evidence import Evidence, suspected
from immunecam.runtime.gate.matcher import Match
from immunecam.runtime.gate.observer import FaceObserver, Observed
from immunecam.runtime.gate.quality import Quality, QualityLimits, assess
from immunecam.runtime.gate.store import TemplateStore
from immunecam.runtime.gate.track import Sighting

__all__ = ["Decider", "Decision"]

# Purifying and embedding 16 faces at once held the next frame up by half a second and took 150 MiB more; faces of
# following frames are too much alike for that many to tell more.
_MOST_USED = 5


@dataclass(frozen=True, eq=False)
class Decision:
    """A decision before it is written down.

    Attributes
    ----------
    event : GateEvent
    sightings : sequence of Sighting
        The faces that it rests on; where none was good enough, all.
    first_image : int or None
        The purifier's number of the first of them; None where nothing was purified.
    """

    event: GateEvent
    sightings: Sequence[Sighting] = field(repr=False)
    first_image: int | None


class Decider:
    """Decides by the faces of one track that are good enough.

    Their embeddings are averaged and *not* brought back to unit length, so the score is the mean of the frames'
    cosines: a threshold that holds for single frames holds for it, one frame in n can add no more than 1/n, and two
    people in one track reach neither's templates.

    Parameters
    ----------
    store : TemplateStore
    observer : FaceObserver
    min_frames : int
        Good faces that a decision needs; where fewer frames are given, as many as those. It rests on the newest 5 at
        most, or on this many if that is more.
    limits : QualityLimits
        From where on a face is good.
    """

    def __init__(self, store: TemplateStore, observer: FaceObserver, min_frames: int, limits: QualityLimits) -> None:
        self._store, self._observer, self._min_frames, self._limits = store, observer, min_frames, limits

    def enough(self, sightings: Sequence[Sighting]) -> bool:
        """Whether so many of these faces are good that the decision need not wait."""
        return sum(assess(s.crop, s.face, self._limits).good for s in sightings) >= self._min_frames

    def decide(
        self, sightings: Sequence[Sighting], frames: int, claimed: str | None, *, missed: int, threshold: float
    ) -> Decision:
        """Compare the faces of a track with who is enrolled.

        Parameters
        ----------
        sightings : sequence of Sighting
            Empty where no face was seen.
        frames : int
            In which it was looked for.
        claimed : str or None
            Compare with this person; None with everybody.
        missed : int
            Frames since the face was last seen.
        threshold : float
            Score to accept from.
        """
        began = time.perf_counter()
        mode = "identify" if claimed is None else "verify"
        common: dict[str, Any] = {"mode": mode, "claimed": claimed, "threshold": threshold}
        common |= {"frames": frames, "missed": missed}
        qualities = [assess(seen.crop, seen.face, self._limits) for seen in sightings]
        good = [seen for seen, quality in zip(sightings, qualities, strict=True) if quality.good]
        first_image: int | None = None
        if not sightings:
            event = GateEvent("no-face", **common)
        elif len(good) < min(self._min_frames, frames):
            reasons = (f"{len(good)} good faces, {min(self._min_frames, frames)} wanted", *_common(qualities))
            event = GateEvent("low-quality", used=len(good), reasons=reasons, **common)
        else:
            good = good[-max(self._min_frames, _MOST_USED) :]
            observed = self._observer.observe_sightings(good)
            first_image = observed.first_image
            # Not brought to unit length: see the class.
            probe = np.asarray(observed.embeddings.mean(0), np.float32)
            common |= {"used": len(good), **_medians(observed.evidence)}
            event = self._compare(probe, observed, claimed, threshold, common | self._liveness(observed))
        latency = 1000 * (time.perf_counter() - began)
        return Decision(GateEvent(**{**vars(event), "latency_ms": latency}), good or list(sightings), first_image)

    def _liveness(self, observed: Observed) -> dict[str, float]:
        """The median over the faces, as of the evidence, and what is wanted."""
        detector = self._observer.liveness
        if detector is None or observed.liveness is None:
            return {}
        return {"liveness": float(np.median(observed.liveness)), "liveness_threshold": detector.threshold}

    def _compare(
        self,
        probe: NDArray[np.float32],
        observed: Observed,
        claimed: str | None,
        threshold: float,
        common: dict[str, Any],
    ) -> GateEvent:
        gallery = self._store.gallery()
        if claimed is not None:
            match: Match | None = gallery.verify(claimed, probe)
        else:
            match = next(iter(gallery.identify(probe)), None)
        if match is None:
            return GateEvent("denied", reasons=("nobody is enrolled",), **common)
        found = {"candidate": match.person, "score": match.score, **common}
        reasons = []
        if suspected(observed.evidence, self._store.operating_point()):
            reasons.append("purification changes who it is")
        # Not "at least as live as wanted" rather than "less live", so that no odd number passes.
        if observed.liveness is not None and not found["liveness"] >= found["liveness_threshold"]:
            reasons.append(
                f"no live face: liveness {found['liveness']:.3f}, at least {found['liveness_threshold']:.3f} wanted"
            )
        if reasons:
            return GateEvent("suspected-attack", reasons=tuple(reasons), **found)
        kind: EventKind = "granted" if match.score >= threshold else "denied"
        return GateEvent(kind, person=match.person if kind == "granted" else None, **found)


def _medians(evidence: Sequence[Evidence]) -> dict[str, float]:
    if not evidence:
        return {}
    return {name: float(np.median([getattr(e, name) for e in evidence])) for name in ("residual", "cosine", "active")}


def _common(qualities: Sequence[Quality]) -> list[str]:
    """The newest face's reasons, which whoever stands there can do something about."""
    return next((list(quality.reasons) for quality in reversed(qualities) if not quality.good), [])
