"""The checks that catch gradient masking; a table that fails one is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation import metrics

__all__ = ["CONFIDENCE", "TOLERATED", "Check", "failed", "not_below", "not_measured", "reaches"]

_Success = Mapping[str, NDArray[np.float64]]

CONFIDENCE = 0.999
"""Of the bootstrap interval in which a difference must lie below zero for a check to fail; there are many checks."""

TOLERATED = 0.1
"""Largest fall of a success rate that is put down to chance, however few the pairs."""


@dataclass(frozen=True)
class Check:
    """One check with its figures.

    Attributes
    ----------
    name : str
        What must hold.
    holds : bool or None
        None if it could not be measured.
    figures : str
        The success rates that were compared, in per cent.
    """

    name: str
    holds: bool | None
    figures: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def not_below(name: str, weaker: _Success, stronger: _Success) -> Check:
    """That a stronger attacker's success is not below a weaker one's, both on the same pairs.

    Parameters
    ----------
    weaker, stronger : mapping
        By goal, (N,) how often (0 to 1) each pair's attack succeeds.
    """
    holds, parts = True, []
    for goal, before in weaker.items():
        after = stronger[goal]
        low, high = metrics.interval(after - before, confidence=CONFIDENCE, draws=10_000)
        holds = holds and high >= 0 and float((after - before).mean()) >= -TOLERATED - 1e-9
        parts.append(
            f"{goal} {100 * before.mean():.1f} -> {100 * after.mean():.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
        )
    return Check(name, holds, ", ".join(parts))


def not_measured(name: str, why: str) -> Check:
    """A check that this evaluation cannot make."""
    return Check(name, None, why)


def reaches(name: str, success: _Success, wanted: float) -> Check:
    """That success rates reach a value."""
    rates = {goal: float(value.mean()) for goal, value in success.items()}
    figures = ", ".join(f"{goal} {100 * rate:.1f}" for goal, rate in rates.items())
    return Check(name, all(rate >= wanted for rate in rates.values()), f"{figures} (wanted {100 * wanted:.0f})")


def failed(checks: Sequence[Check]) -> str:
    """One sentence about the checks that do not hold; empty if all do."""
    return "; ".join(f"{check.name}: {check.figures}" for check in checks if check.holds is False)
