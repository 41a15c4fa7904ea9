"""Times of short launches: many of them in one CUDA graph, between two events, the median of its replays."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from immunecam.runtime.card.capture import captured

__all__ = ["WARM_SECONDS", "Timing", "time_replays", "timing_of"]

WARM_SECONDS = 0.1
"""Of work before anything is timed: an idle card's clocks take a while to rise."""


@dataclass(frozen=True)
class Timing:
    """Microseconds of one piece of work.

    Attributes
    ----------
    p50, p95, least : float
        Of the repeats; p95 is that of means over `together` pieces, not of single ones.
    repeats : int
        How many there were, each of `together` pieces.
    together : int
        Pieces between two events.
    """

    p50: float
    p95: float
    least: float
    repeats: int
    together: int

    def to_dict(self) -> dict[str, Any]:
        """With units in the names."""
        return {
            "p50_us": round(self.p50, 3),
            "p95_us": round(self.p95, 3),
            "least_us": round(self.least, 3),
            "repeats": self.repeats,
            "together": self.together,
        }


def timing_of(microseconds: Sequence[float], together: int) -> Timing:
    """Of measured intervals, each of `together` pieces."""
    each = sorted(value / together for value in microseconds)
    return Timing(
        statistics.median(each), each[min(len(each) - 1, int(0.95 * len(each)))], each[0], len(each), together
    )


def time_replays(stream: Any, work: Callable[[int, Any], None], *, together: int = 48, repeats: int = 40) -> Timing:
    """Time of `work(i, target)`, which launches to `target`; i counts on, so that inputs can be changed.

    Python takes longer to launch than a card takes for these kernels, so the launches are in a graph. One replay runs
    before the first event, so that the card is not idle while the host launches what is timed.
    """
    from cuda.core import EventOptions

    work(0, stream)  # loads the kernels, which a capture must not
    stream.sync()
    graph = captured(stream, lambda builder: [work(number, builder) for number in range(together)])
    warm = time.monotonic() + WARM_SECONDS
    while time.monotonic() < warm:
        graph.launch(stream)
        stream.sync()
    options = EventOptions(timing_enabled=True)
    measured = []
    for _ in range(repeats):
        graph.launch(stream)
        began = stream.record(options=options)
        graph.launch(stream)
        ended = stream.record(options=options)
        ended.sync()
        measured.append(1000 * (ended - began))
    graph.close()
    return timing_of(measured, together)
