"""The analyzer alone as ONNX: faces in, probabilities out. TensorRT and the GPU path take this one."""

from __future__ import annotations

import io
import logging
import warnings

import torch
from torch import Tensor, nn

from immunecam.models import AIS, PIN

__all__ = ["OPSET", "analyzer_graph"]

# The newest opset that TensorRT 10.0 to 11 and ONNX Runtime 1.18 read.
OPSET = 20


class _Probabilities(nn.Module):
    def __init__(self, network: AIS | PIN) -> None:
        super().__init__()
        self.network = network

    def forward(self, faces: Tensor) -> Tensor:
        return self.network(faces)


def analyzer_graph(network: AIS | PIN) -> bytes:
    """Export a network in evaluation mode.

    Returns
    -------
    bytes
        An ONNX model with its weights inside: `faces` (N, 112, 112) float32 to `probabilities` (N, K) float32, N
        dynamic, checked by onnx's full checker.
    """
    import onnx

    example = torch.zeros(2, 112, 112)
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _Probabilities(network).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["faces"],
            output_names=["probabilities"],
            dynamic_shapes={"faces": {0: torch.export.Dim("N", min=1, max=4096)}},
            verbose=False,
        )
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)
    model = onnx.load_from_string(buffer.getvalue())
    for node in model.graph.node:  # stack traces of the exporting machine
        del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output):
        del value.metadata_props[:]
    del model.metadata_props[:], model.graph.metadata_props[:]
    for tensor in model.graph.initializer:
        if not tensor.raw_data:  # small ones may be stored as typed fields; the purifier graph wants raw bytes
            tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _quiet:
    """The exporter logs its progress; a user wants to see only ours."""

    def __init__(self, name: str) -> None:
        self._logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self._level = self._logger.level
        self._logger.setLevel(logging.ERROR)

    def __exit__(self, *_: object) -> None:
        self._logger.setLevel(self._level)
