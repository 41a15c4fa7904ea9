"""Forms of the same work measured in turn, so that whatever else the machine does meets them all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

__all__ = ["in_turn"]


def in_turn(
    forms: Mapping[str, Callable[[], object]], *, repeats: int, warm_up: int = 2
) -> dict[str, dict[str, float]]:
    """Milliseconds of each form: "wall_p50_ms", "wall_least_ms" and "cpu_p50_ms", the time of this process's threads.

    Parameters
    ----------
    forms : Mapping of callable
        By name; each is called once a round, in this order.
    repeats, warm_up : int
        Rounds that count, and rounds before them.
    """
    wall: dict[str, list[float]] = {name: [] for name in forms}
    cpu: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(warm_up + repeats):
        for name, form in forms.items():
            began, busy = time.perf_counter(), time.process_time()
            form()
            busy, took = time.process_time() - busy, time.perf_counter() - began
            if number >= warm_up:
                wall[name].append(1000 * took)
                cpu[name].append(1000 * busy)
    return {
        name: {
            "wall_p50_ms": round(statistics.median(wall[name]), 4),
            "wall_least_ms": round(min(wall[name]), 4),
            "cpu_p50_ms": round(statistics.median(cpu[name]), 4),
        }
        for name in forms
    }
