"""The analyzer alone as ONNX: faces in, probabilities out. TensorRT and the GPU path take this one."""

from __future__ import annotations

from torch import Tensor, nn

from immunecam.export.torch_graph import graph_from_module
from immunecam.models import AIS, PIN

__all__ = ["analyzer_graph"]


class _Probabilities(nn.Module):
    def __init__(self, network: AIS | PIN) -> None:
        super().__init__()
        self.network = network

    def forward(self, faces: Tensor) -> Tensor:
        return self.network(faces)


def analyzer_graph(network: AIS | PIN) -> bytes:
    """An ONNX model: `faces` (N, 112, 112) float32 in [-1, 1] to `probabilities` (N, K) float32."""
    return graph_from_module(_Probabilities(network), ["faces"], "probabilities")
