"""Aligned faces through the purifier as it is shipped."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from immunecam.runtime.purifier import Purifier
from immunecam.runtime.trust import Trust

__all__ = ["Work", "trust_of"]


class Work:
    """`Purifier.purify_batch` of a bundle; see :class:`immunecam.benchmarks.latency.worker.Work`.

    Parameters
    ----------
    specification : mapping
        "bundle", "provider", "threads", "keys", "state", and "faces", a file of float32 (M, 112, 112) in [-1, 1].
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        self._purifier = self._load(specification)
        self._faces = np.load(specification["faces"], allow_pickle=False)

    @property
    def about(self) -> Mapping[str, Any]:
        """The provider that was taken."""
        return {"provider": self._purifier.provider}

    def run(self, batch: int) -> tuple[dict[str, float], int]:
        """The stages as the purifier times them, and the whole call."""
        faces = np.resize(self._faces, (batch, *self._faces.shape[1:]))
        began = time.perf_counter()
        done = self._purifier.purify_batch(faces)
        total = 1000 * (time.perf_counter() - began)
        return {**done.timings_ms, "total": total}, batch

    def _load(self, specification: Mapping[str, Any]) -> Purifier:
        return Purifier.load(
            specification["bundle"],
            provider=specification["provider"],
            threads=specification["threads"],
            trust=trust_of(specification),
        )


def trust_of(specification: Mapping[str, Any]) -> Trust | None:
    """What holds for the bundle: the keys of the specification, else the environment's."""
    return Trust.in_force(specification["keys"], state=specification["state"])
