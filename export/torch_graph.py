"""A PyTorch module as an ONNX model: weights inside, batch dynamic, checked, no traces of the exporting machine."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Sequence

import torch
from torch import nn

__all__ = ["OPSET", "graph_from_module"]

# The newest opset that TensorRT 10.0 to 11 and ONNX Runtime 1.18 read.
OPSET = 20


def graph_from_module(
    module: nn.Module, inputs: Sequence[str], output: str, *, shape: Sequence[int] = (112, 112)
) -> bytes:
    """Export a module in evaluation mode whose inputs are faces.

    Parameters
    ----------
    module : nn.Module
        Takes as many (N, *shape) float32 tensors as there are `inputs`; its parameters' names follow the argument
        names of its forward.
    inputs, output : str
        Names in the graph.
    shape : sequence of int
        Of one face.

    Returns
    -------
    bytes
        An ONNX model, N dynamic, that onnx's full checker accepts.
    """
    import onnx

    examples = tuple(torch.zeros(2, *shape) for _ in inputs)
    batch = torch.export.Dim("N", min=1, max=4096)
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            examples,
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple({0: batch} for _ in inputs),
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
