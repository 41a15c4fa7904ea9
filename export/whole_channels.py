"""Integer convolutions with channels by fours, as ONNX Runtime multiplies them.

A convolution of nine channels, or of one, goes a longer way through ONNX Runtime: it copies every patch of the picture
before it multiplies. With channels of zeros up to the next four, it does not. The sums are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["whole_channels"]

_TOGETHER = 4


def whole_channels(nodes: Sequence[Any], initializers: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Nodes and initializers of the same function.

    Parameters
    ----------
    nodes : sequence of NodeProto
        In order; changed in place. A Conv without groups of what QuantizeLinear and DequantizeLinear give, whose
        weights are dequantised from constants and have other channels than by fours, gets channels of zeros.
    initializers : sequence of TensorProto
        Their values may lie in another file.
    """
    from onnx import helper, numpy_helper

    dims = {tensor.name: tuple(tensor.dims) for tensor in initializers}
    dequantise = {node.output[0]: node for node in nodes if node.op_type == "DequantizeLinear"}
    quantised = {node.output[0] for node in nodes if node.op_type == "QuantizeLinear"}
    made: list[Any] = []
    replaced: set[str] = set()
    added: list[Any] = []
    for node in nodes:
        if node.op_type == "Conv" and all(name in dequantise for name in node.input[:2]):
            of_faces, of_weights = (dequantise[name] for name in node.input[:2])
            shape = dims.get(of_weights.input[0], ())
            groups = [attribute.i for attribute in node.attribute if attribute.name == "group"]
            if len(shape) == 4 and of_faces.input[0] in quantised and groups in ([], [1]) and shape[1] % _TOGETHER:
                spare = np.zeros(8, np.int64)
                spare[5] = -shape[1] % _TOGETHER
                more = f"{node.name}/channels"
                added.append(numpy_helper.from_array(spare, more))
                faces, weights = f"{node.name}/faces", f"{node.name}/weights"
                # The weights are folded when ONNX Runtime loads the graph.
                parts = ((faces, of_faces, of_faces.input[2:3]), (weights, of_weights, []))
                for place, (name, old, zero) in enumerate(parts):
                    made.append(helper.make_node("Pad", [old.input[0], more, *zero], [f"{name}.whole"], name=name))
                    copy = type(old).FromString(old.SerializeToString())
                    copy.name, copy.input[0], copy.output[0] = f"{name}.dequantised", f"{name}.whole", f"{name}.float"
                    made.append(copy)
                    node.input[place] = copy.output[0]
                    replaced.add(old.output[0])
        made.append(node)
    used = {name for node in made for name in node.input}
    kept = [node for node in made if node.output[0] not in replaced - used]
    return kept, [*initializers, *added]
