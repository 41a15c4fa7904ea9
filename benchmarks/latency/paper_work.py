"""The published form: the analyzer of AIS in eager PyTorch, and for every face a masked copy of the whole basis.

Weights and eigenfaces are drawn at random: times do not depend on them, and the authors' are not to be had.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from immunecam.benchmarks.card.forms import paper
from immunecam.models import build_model

__all__ = ["PAPER_K", "Work"]

PAPER_K = 1500
"""Eigenfaces of AIS."""


class Work:
    """Analysis, mutation and projection of aligned faces; see :class:`immunecam.benchmarks.latency.worker.Work`.

    Parameters
    ----------
    specification : mapping
        "threads", and "faces", a file of float32 (M, 112, 112) in [-1, 1].
    """

    about: Mapping[str, Any] = {"provider": "PyTorch, eager", "k": PAPER_K}

    def __init__(self, specification: Mapping[str, Any]) -> None:
        torch.set_num_threads(specification["threads"])
        torch.manual_seed(0)
        self._network = build_model("ais", PAPER_K, {}).eval()
        self._faces = torch.from_numpy(np.load(specification["faces"], allow_pickle=False))
        size = self._faces[0].numel()
        self._rows = torch.nn.functional.normalize(torch.randn(PAPER_K, size), dim=1)
        self._mean = torch.rand(size) - 0.5

    @torch.no_grad()
    def run(self, batch: int) -> tuple[dict[str, float], int]:
        """Milliseconds of "analyze", of "project", which draws the bits, too, and of both."""
        faces = self._faces[torch.arange(batch) % len(self._faces)]
        began = time.perf_counter()
        p = self._network(faces)
        analyzed = time.perf_counter()
        projected = paper(faces.flatten(1), p, self._mean, self._rows)
        ((projected.clamp(-1, 1) + 1) * 127.5).round().byte()
        ended = time.perf_counter()
        times = {"analyze": analyzed - began, "project": ended - analyzed, "total": ended - began}
        return {name: 1000 * seconds for name, seconds in times.items()}, batch
