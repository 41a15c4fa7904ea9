"""Ratios of times with intervals that know how much equal processes differ.

The independent measurements are launches of a process: blocks within one share its place in memory and whatever the
machine did meanwhile, so hundreds of repeats say little about the next launch (Kalibera and Jones, 2013). Each launch
gives one number, the median of its times; intervals are Student's on the logarithms of these.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["CONFIDENCE", "LEAST_LAUNCHES", "Ratio", "paired_ratio", "student_quantile", "unpaired_ratio"]

CONFIDENCE = 0.99
"""Of every interval here: a table has many rows, and one row in twenty would be wrong by chance at 0.95."""

LEAST_LAUNCHES = 3
"""Of each side; fewer cannot tell the noise between processes."""


@dataclass(frozen=True)
class Ratio:
    """A ratio and its interval.

    Attributes
    ----------
    value, low, high : float
        Positive; low <= value <= high.
    """

    value: float
    low: float
    high: float

    def to_list(self) -> list[float]:
        """Value, low, high, rounded for a report."""
        return [round(number, 4) for number in (self.value, self.low, self.high)]


def paired_ratio(above: Sequence[float], below: Sequence[float]) -> Ratio | None:
    """Ratio of times that were measured in turn, a pair a launch; None for fewer than three launches."""
    if len(above) != len(below):
        raise ValueError(f"{len(above)} and {len(below)} launches make no pairs")
    if len(above) < LEAST_LAUNCHES:
        return None
    logs = [math.log(a / b) for a, b in zip(above, below, strict=True)]
    return _ratio(statistics.fmean(logs), statistics.stdev(logs) / math.sqrt(len(logs)), len(logs) - 1)


def unpaired_ratio(above: Sequence[float], below: Sequence[float]) -> Ratio | None:
    """Ratio of times of two runs (Welch, 1947); None for fewer than three launches on a side."""
    if min(len(above), len(below)) < LEAST_LAUNCHES:
        return None
    sides = [[math.log(value) for value in side] for side in (above, below)]
    variances = [statistics.variance(side) / len(side) for side in sides]
    together = sum(variances)
    freedom = float(min(len(side) for side in sides) - 1)
    if together > 0:
        freedom = together**2 / sum(v**2 / (len(side) - 1) for v, side in zip(variances, sides, strict=True))
    return _ratio(statistics.fmean(sides[0]) - statistics.fmean(sides[1]), math.sqrt(together), freedom)


def student_quantile(confidence: float, freedom: float) -> float:
    """t with that share of Student's distribution between -t and t.

    With t = sqrt(freedom) tan(angle) the density is proportional to cos(angle)**(freedom - 1), which is summed.
    """
    edges = np.linspace(0, np.pi / 2, 2001)
    weights = np.cos((edges[1:] + edges[:-1]) / 2) ** (freedom - 1)
    share = np.concatenate([[0], np.cumsum(weights)]) / weights.sum()
    return math.sqrt(freedom) * math.tan(float(np.interp(confidence, share, edges)))


def _ratio(mean: float, error: float, freedom: float) -> Ratio:
    reach = student_quantile(CONFIDENCE, freedom) * error
    return Ratio(math.exp(mean), math.exp(mean - reach), math.exp(mean + reach))
