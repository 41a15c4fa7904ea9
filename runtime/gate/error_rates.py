"""How often a gate errs at any threshold, for whoever looks for another one than the calibrated."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError

__all__ = ["ErrorRates", "ScoreCounts"]

_FIRST, _STEP = -1.0, 0.01
_STEPS = 201  # thresholds from -1 to 1


@dataclass(frozen=True)
class ErrorRates:
    """False match and false non-match rates at the thresholds -1, -0.99 ... 1, measured and without intervals.

    Attributes
    ----------
    fmr, fnmr : tuple of float, 201 each
        Shares of the comparisons of different people with a score from the threshold on, and of the comparisons of one
        person with a score below it.
    comparisons, independent, genuine : int
        As in :class:`Calibration`. Where no error was seen, the rate may still be ``3 / independent``.
    """

    fmr: tuple[float, ...]
    fnmr: tuple[float, ...]
    comparisons: int
    independent: int
    genuine: int

    def __post_init__(self) -> None:
        if not len(self.fmr) == len(self.fnmr) == _STEPS:
            raise InputError(
                f"there are {len(self.fmr)} and {len(self.fnmr)} error rates, but there must be {_STEPS} of both: "
                "calibrate again"
            )

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> ErrorRates:
        """Of :func:`dataclasses.asdict`, or what JSON makes of it."""
        return cls(**{**content, "fmr": tuple(content["fmr"]), "fnmr": tuple(content["fnmr"])})


class ScoreCounts:
    """Counts scores by the thresholds that they reach, some at a time: all pairs of many people fit into no memory."""

    def __init__(self) -> None:
        self._counts = np.zeros(_STEPS, np.int64)

    @property
    def total(self) -> int:
        """Scores that were counted."""
        return int(self._counts.sum())

    def add(self, scores: NDArray[Any]) -> None:
        """Count cosines, of any shape."""
        # A cosine of rounded numbers may lie a little beyond 1, or below the threshold that it stands for.
        steps = (np.clip(scores, _FIRST, -_FIRST).astype(np.float64) - _FIRST) / _STEP + 1e-5
        self._counts += np.bincount(steps.astype(np.intp).ravel(), minlength=_STEPS)

    def reaching(self) -> NDArray[np.float64]:
        """Share of the scores that reach each threshold; shape (201,)."""
        share: NDArray[np.float64] = np.cumsum(self._counts[::-1])[::-1] / max(1, self.total)
        return share
