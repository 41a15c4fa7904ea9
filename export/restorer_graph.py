"""The restorer alone as ONNX, for backends that project by a kernel of their own."""

from __future__ import annotations

from immunecam.export.torch_graph import graph_from_module
from immunecam.models import Restorer

__all__ = ["restorer_graph"]


def restorer_graph(restorer: Restorer) -> bytes:
    """An ONNX model: `faces` and `projected` (N, 112, 112) float32 in [-1, 1] to `restored`, not clipped."""
    return graph_from_module(restorer, ["faces", "projected"], "restored")
