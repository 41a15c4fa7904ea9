"""The checks that catch gradient masking; a table that fails one is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

__all__ = ["Check", "failed", "not_below", "reaches"]


@dataclass(frozen=True)
class Check:
    """One check with its figures.

    Attributes
    ----------
    name : str
        What must hold.
    holds : bool
    figures : str
        The success rates that were compared, in per cent.
    """

    name: str
    holds: bool
    figures: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def not_below(name: str, weaker: Mapping[str, float], stronger: Mapping[str, float], pairs: int) -> Check:
    """That success rates (0 to 1, by goal) of a stronger attacker are not below a weaker one's.

    Twice the standard error of the difference of two rates of half as many pairs each is forgiven: it is what chance
    does to attacks that are equally strong.
    """
    worst, parts = True, []
    for goal, before in weaker.items():
        after = stronger[goal]
        count = max(1, pairs // 2)
        allowed = 2 * ((before * (1 - before) + after * (1 - after)) / count) ** 0.5 + 1 / count
        worst = worst and after >= before - allowed
        parts.append(f"{goal} {100 * before:.1f} -> {100 * after:.1f} (allowed {-100 * allowed:.1f})")
    return Check(name, worst, ", ".join(parts))


def reaches(name: str, rates: Mapping[str, float], wanted: float) -> Check:
    """That success rates reach a value."""
    figures = ", ".join(f"{goal} {100 * rate:.1f}" for goal, rate in rates.items())
    return Check(name, all(rate >= wanted for rate in rates.values()), f"{figures} (wanted {100 * wanted:.0f})")


def failed(checks: Sequence[Check]) -> str:
    """One sentence about the checks that do not hold; empty if all do."""
    return "; ".join(f"{check.name}: {check.figures}" for check in checks if not check.holds)
