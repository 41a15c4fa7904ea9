"""Times of work that PyTorch launches."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from immunecam.benchmarks.card.timing import WARM_SECONDS, Timing, timing_of

__all__ = ["time_calls"]


def time_calls(
    call: Callable[[], Any],
    *,
    together: int = 1,
    repeats: int = 50,
    pieces: int = 1,
    stream: torch.cuda.Stream | None = None,
) -> Timing:
    """Time between two events around `together` calls, each of `pieces` pieces of work, after a warm-up."""
    used = stream or torch.cuda.current_stream()
    warm = time.monotonic() + WARM_SECONDS
    while time.monotonic() < warm:
        call()
        used.synchronize()
    measured = []
    for _ in range(repeats):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        call()  # so that the card is busy while the host launches what is timed
        began.record(used)
        for _ in range(together):
            call()
        ended.record(used)
        ended.synchronize()
        measured.append(1000 * began.elapsed_time(ended))
    return timing_of(measured, together * pieces)
