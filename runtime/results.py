"""What a purifier returns, and the stopwatch that times its stages."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from immunecam.runtime.faces import Face

__all__ = ["FrameResult", "PurifiedFaces", "Stopwatch"]


@dataclass(frozen=True, eq=False)
class PurifiedFaces:
    """Faces after purification, with what an audit needs.

    Attributes
    ----------
    purified : ndarray of uint8, shape (N, 112, 112)
    probabilities : ndarray of float32, shape (N, K)
        Activation probability of each eigenface.
    first_image : int
        Running number of the first face; face n has ``first_image + n``. With a fixed seed,
        ``purify_batch(faces, first_image=first_image)`` gives the same pixels again.
    timings_ms : Mapping of str to float
        Milliseconds by stage, of all N faces together.
    """

    purified: NDArray[np.uint8]
    probabilities: NDArray[np.float32] = field(repr=False)
    first_image: int
    timings_ms: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class FrameResult:
    """A frame after purification.

    Attributes
    ----------
    frame : ndarray of uint8, shape (H, W, 3)
        BGR with the purified faces in place. The very array that was given if it has no face, or if
        pasting was not asked for.
    faces : list of Face
        N faces, where they are in the frame.
    crops : ndarray of uint8, shape (N, 112, 112, 3)
        The aligned faces before purification, BGR.
    purified : ndarray of uint8, shape (N, 112, 112)
        The aligned faces after purification, grey: what a recogniser should be given.
    probabilities : ndarray of float32, shape (N, K)
    first_image : int
        Running number of the first face, as in :class:`PurifiedFaces`.
    timings_ms : Mapping of str to float
        Milliseconds by stage: "find", "align", those of the purification, "paste"; on a card "find" and "card".
    """

    frame: NDArray[np.uint8]
    faces: list[Face]
    crops: NDArray[np.uint8] = field(repr=False)
    purified: NDArray[np.uint8] = field(repr=False)
    probabilities: NDArray[np.float32] = field(repr=False)
    first_image: int
    timings_ms: Mapping[str, float]


class Stopwatch:
    """Adds the milliseconds since the last lap to a stage."""

    def __init__(self, timings_ms: dict[str, float]) -> None:
        self._timings = timings_ms
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        """End the stage that has run since the last lap, or since the beginning."""
        now = time.perf_counter()
        self._timings[stage] = self._timings.get(stage, 0.0) + (now - self._last) * 1e3
        self._last = now
