"""Percentiles of times, as far as enough was measured for them."""

from __future__ import annotations

from collections.abc import Sequence

from immunecam.runtime.report import percentiles_ms

__all__ = ["told_percentiles"]

# Without some beyond it, a percentile is the largest value by another name.
_TIMES_FOR = {"p95_ms": 20, "p99_ms": 100}


def told_percentiles(name: str, times_ms: Sequence[float]) -> dict[str, float]:
    """`name_p50_ms` and so on of milliseconds; p95 from 20 of them on, p99 from 100, nothing of none."""
    found = percentiles_ms([value / 1000 for value in times_ms])
    return {f"{name}_{q}": value for q, value in found.items() if len(times_ms) >= _TIMES_FOR.get(q, 1)}
