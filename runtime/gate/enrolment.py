"""From pictures of a person to templates: which of them are good enough, and which of those are taken."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, NotLiveError, UsageError
from immunecam.runtime.gate.evidence import suspected
from immunecam.runtime.gate.matcher import Match
from immunecam.runtime.gate.observer import FaceObserver
from immunecam.runtime.gate.operating_point import OperatingPoint
from immunecam.runtime.gate.quality import QualityLimits, assess

__all__ = ["Enrolment", "Portraits", "chosen_spread"]


@dataclass(frozen=True)
class Enrolment:
    """What became of pictures of a person.

    Attributes
    ----------
    person : str
    added, total : int
        Templates that were made now, and that the person has.
    refused : tuple of (str, str)
        Pictures that were too poor, and why.
    resembles : Match or None
        Somebody else who is enrolled and whom the gate would take this person for.
    """

    person: str
    added: int
    total: int
    refused: tuple[tuple[str, str], ...]
    resembles: Match | None


@dataclass(frozen=True, eq=False)
class Portraits:
    """The chosen pictures of a person.

    Attributes
    ----------
    embeddings : ndarray of float32, shape (T, E)
        Of unit length.
    qualities : list of float
        0 to 1, one each.
    refused : tuple of (str, str)
        Pictures that were too poor, and why.
    liveness : tuple of float
        Scores of all pictures that liveness was asked of; empty where it was not.
    """

    embeddings: NDArray[np.float32] = field(repr=False)
    qualities: list[float]
    refused: tuple[tuple[str, str], ...]
    liveness: tuple[float, ...] = ()

    @classmethod
    def choose(
        cls,
        person: str,
        frames: Iterable[tuple[str, NDArray[np.uint8]]],
        observer: FaceObserver,
        *,
        count: int,
        limits: QualityLimits,
        point: OperatingPoint | None,
        allow_not_live: bool = False,
    ) -> Portraits:
        """Look at pictures and take the best of as many stretches of them as templates are wanted.

        Parameters
        ----------
        person : str
            For the error.
        frames : iterable of (str, ndarray of uint8, shape (H, W, 3))
            Name and BGR picture; each must show exactly one face.
        observer : FaceObserver
        count : int
            Templates at most, 1 or more.
        limits : QualityLimits
        point : OperatingPoint or None
            Its limits of the evidence tell attacked pictures.
        allow_not_live : bool
            Take pictures that are not live to the observer's detector.

        Raises
        ------
        NotLiveError
            If the median of the pictures does not reach the detector's threshold, as at the door; a single one that
            does not is left out.
        InputError
            If no picture is good enough, with the reasons.
        UsageError
            If `count` is below 1.
        """
        if count < 1:
            raise UsageError(f"max_templates is {count}, but it must be 1 or more")
        detector = observer.liveness
        good: list[tuple[NDArray[np.float32], float]] = []
        live: list[float] = []
        refused: list[tuple[str, str]] = []
        for name, frame in frames:
            sightings = observer.sightings(frame)
            if len(sightings) != 1:
                refused.append((name, "no face" if not sightings else f"{len(sightings)} faces, but one is wanted"))
                continue
            quality = assess(sightings[0].crop, sightings[0].face, limits)
            if not quality.good:
                refused.append((name, "; ".join(quality.reasons)))
                continue
            observed = observer.observe_sightings(sightings)
            if suspected(observed.evidence, point):
                refused.append((name, "it looks attacked: what purification took away changes who it is"))
                continue
            if observed.liveness is not None and detector is not None:
                live.append(float(observed.liveness[0]))
                if not live[-1] >= detector.threshold and not allow_not_live:
                    refused.append(
                        (name, f"no live face: liveness {live[-1]:.3f}, at least {detector.threshold:.3f} wanted")
                    )
                    continue
            good.append((observed.embeddings[0], quality.score))
        if detector is not None and live and not allow_not_live and not np.median(live) >= detector.threshold:
            raise NotLiveError(
                f"{person!r} was not enrolled, because the pictures do not show a live face (liveness "
                f"{np.median(live):.3f}, median of {len(live)}, at least {detector.threshold:.3f} wanted): take "
                "pictures of the person, or give --allow-not-live if they are photos of somebody you know",
                tuple(live),
            )
        if not good:
            said = "; ".join(f"{name}: {reason}" for name, reason in refused[:3]) or "there was no picture"
            raise InputError(f"{person!r} was not enrolled, because no picture is good enough ({said}): take others")
        chosen = [good[i] for i in chosen_spread([score for _, score in good], count)]
        embeddings = np.stack([embedding for embedding, _ in chosen])
        return cls(embeddings, [score for _, score in chosen], tuple(refused), tuple(live))


def chosen_spread(scores: Sequence[float], count: int) -> list[int]:
    """Indices of the best of `count` stretches of a sequence: neighbouring frames show the same."""
    edges = np.linspace(0, len(scores), min(count, len(scores)) + 1).round().astype(int)
    return [max(range(a, b), key=lambda i: scores[i]) for a, b in pairwise(edges)]
