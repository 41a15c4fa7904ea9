"""Aligned faces through the same networks, one after another: where one graph does it all, its stages have no times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from immunecam.benchmarks.latency import faces_work
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.engines import OnnxRuntimeEngine
from immunecam.runtime.purifier import Purifier

__all__ = ["Work"]


class Work(faces_work.Work):
    """As :class:`immunecam.benchmarks.latency.faces_work.Work`, without the graph of the whole purifier, on the CPU."""

    def _load(self, specification: Mapping[str, Any]) -> Purifier:
        bundle = Bundle.load(specification["bundle"], trust=faces_work.trust_of(specification))
        engine = OnnxRuntimeEngine.from_bundle(bundle, provider="cpu", threads=specification["threads"], whole=False)
        return Purifier(bundle, engine)
