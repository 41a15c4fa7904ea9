"""Activations as uint8 in place of int8, for ONNX Runtime on x86, with the very same values.

TensorRT wants int8 activations. ONNX Runtime's integer convolutions on x86 want uint8 ones, and leave many others
in float32. ``uint8 q + 128 with the zero point 128`` and ``int8 q with the zero point 0`` stand for the same number, at
the ends of the range, too. What comes out of a ReLU has no numbers below zero, and keeps the zero point 0, by which
ONNX Runtime sees that the integer convolution before can do the ReLU; above the largest number that was calibrated, it
goes on where int8 ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["signed_activations", "unsigned_activations"]

_MIDDLE, _LOWEST, _SIGNED_ZERO = "zero_point.uint8", "zero_point.uint8.lowest", "zero_point.int8"


def unsigned_activations(nodes: Sequence[Any], initializers: Sequence[Any]) -> list[Any]:
    """The initializers that the nodes need then, which are changed in place.

    Parameters
    ----------
    nodes : sequence of NodeProto
        With QuantizeLinear of int8, zero point 0, and DequantizeLinear of what they give; other DequantizeLinear, those
        of weights, stay as they are.
    initializers : sequence of TensorProto

    Returns
    -------
    list of TensorProto
        The same initializers if no node quantises.
    """
    from onnx import numpy_helper

    positive = {node.output[0] for node in nodes if node.op_type == "Relu"}
    zeros = {
        node.output[0]: _LOWEST if node.input[0] in positive else _MIDDLE
        for node in nodes
        if node.op_type == "QuantizeLinear"
    }
    replaced = set()
    for node in nodes:
        quantised = {"QuantizeLinear": node.output[0], "DequantizeLinear": node.input[0]}.get(node.op_type)
        if quantised in zeros:
            replaced.add(node.input[2])
            node.input[2] = zeros[quantised]
    unused = replaced.difference(*(node.input for node in nodes))
    values = {_LOWEST: np.uint8(0), _MIDDLE: np.uint8(128)}
    more = [numpy_helper.from_array(values[name], name) for name in sorted(set(zeros.values()))]
    return [*(tensor for tensor in initializers if tensor.name not in unused), *more]


def signed_activations(nodes: Sequence[Any], initializers: Sequence[Any]) -> list[Any]:
    """The way back, for a card: uint8 with the zero point 128, or after a ReLU 0, becomes int8 with the zero point 0.

    Parameters and what is returned are as for :func:`unsigned_activations`; other zero points stay as they are.
    """
    from onnx import numpy_helper

    ours = {
        tensor.name
        for tensor in initializers
        if (value := numpy_helper.to_array(tensor)).dtype == np.uint8
        and value.size == 1
        and (int(value.item()) == 128 or tensor.name == _LOWEST)
    }
    found = False
    for node in nodes:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and len(node.input) > 2 and node.input[2] in ours:
            node.input[2], found = _SIGNED_ZERO, True
    used = {name for node in nodes for name in node.input}
    more = [numpy_helper.from_array(np.int8(0), _SIGNED_ZERO)] if found else []
    return [*(tensor for tensor in initializers if tensor.name not in ours or tensor.name in used), *more]
