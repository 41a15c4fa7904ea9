"""A fixed piece of NumPy work, by which two runs can be compared that the machine gave unlike shares of itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["Work"]


class Work:
    """Matrix products as an analyzer's convolutions make them, and one pass over a basis of 31 MB.

    See :class:`immunecam.benchmarks.latency.worker.Work`. Never change it: reports of before would mean another thing.
    """

    about: Mapping[str, Any] = {"provider": "NumPy"}

    def __init__(self, specification: Mapping[str, Any]) -> None:
        rng = np.random.default_rng(0)
        self._weights = rng.standard_normal((128, 1152), np.float32)
        self._patches = rng.standard_normal((1152, 784), np.float32)
        self._basis = rng.standard_normal((625, 12544), np.float32)
        self._face = rng.standard_normal(12544, np.float32)

    def run(self, batch: int) -> tuple[dict[str, float], int]:
        """Milliseconds; there are no faces."""
        began = time.perf_counter()
        (self._weights @ self._patches).sum()
        (self._basis @ self._face).sum()
        return {"total": 1000 * (time.perf_counter() - began)}, 0
