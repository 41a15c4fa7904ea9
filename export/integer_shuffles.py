"""Pixel shuffles of integers, in the layout of ONNX Runtime's integer convolutions: a copy of runs of bytes.

ONNX Runtime's DepthToSpace takes float32 numbers with their channels first, so that an integer network leaves its
integers and its layout for it, and for the sum that follows. With the channels of the convolution before it in the
order of the places they go to, and last, the same shuffle moves all channels of a pixel at once. The values are the
same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["integer_shuffles"]

_TOGETHER = 16
"""Channels that an integer convolution of ONNX Runtime computes at once: with a part of them it takes longer."""


def integer_shuffles(
    nodes: Sequence[Any], initializers: Sequence[Any], shapes: Mapping[str, Sequence[int]]
) -> tuple[list[Any], list[Any]]:
    """Nodes and initializers of the same function.

    Parameters
    ----------
    nodes : sequence of NodeProto
        In order; changed in place. A DepthToSpace (mode CRD) of what a convolution alone gives to QuantizeLinear and
        DequantizeLinear of one scale is replaced; others stay.
    initializers : sequence of TensorProto
        With the convolution's weights and bias. Their values may lie in another file.
    shapes : Mapping of sequence of int
        Of values (N, C, H, W) by name, at least of what such a DepthToSpace gets.
    """
    from onnx import helper, numpy_helper

    dims = {tensor.name: tuple(tensor.dims) for tensor in initializers}
    source = {output: node for node in nodes for output in node.output}
    uses = Counter(name for node in nodes for name in node.input)

    def alone(name: str, kind: str) -> Any:
        node = source.get(name)
        return node if node is not None and node.op_type == kind and uses[name] == 1 else None

    quick: list[Any] = []
    added: list[Any] = []
    for node in nodes:
        quick.append(node)
        if node.op_type != "DepthToSpace":
            continue
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        dequantise = alone(node.input[0], "DequantizeLinear")
        quantise = dequantise and alone(dequantise.input[0], "QuantizeLinear")
        convolution = quantise and alone(quantise.input[0], "Conv")
        if convolution is None or attributes.get("mode") != b"CRD":
            continue
        _, channels, height, width = shapes[node.input[0]]
        block = attributes["blocksize"]
        kept, spare = channels // block**2, -channels % _TOGETHER
        order = np.arange(channels).reshape(kept, block, block).transpose(1, 2, 0).ravel()

        def constant(what: str, value: Any, prefix: str = node.name) -> str:
            added.append(numpy_helper.from_array(np.array(value, np.int64), f"{prefix}/{what}"))
            return added[-1].name

        # The weights and what belongs to them in the new order; ONNX Runtime folds this when it loads the graph.
        holders = [*(source[name] for name in convolution.input[1:] if name in source), convolution]
        places = constant("order", np.pad(order, (0, spare)))
        ordered = []
        for holder in holders:
            for n, name in enumerate(holder.input):
                if dims.get(name, ())[:1] == (channels,):
                    holder.input[n] = there = f"{node.name}/{name}"
                    ordered.append(helper.make_node("Gather", [name, places], [there], name=there, axis=0))
        first = min(quick.index(holder) for holder in holders)
        quick[first:first] = ordered

        steps: list[tuple[str, list[str], dict[str, Any]]] = [("Transpose", [], {"perm": [0, 2, 3, 1]})]
        if spare:
            steps.append(("Slice", [constant("from", [0]), constant("to", [channels]), constant("axis", [3])], {}))
        steps += [
            ("Reshape", [constant("rows", [0, height, width, block, block * kept])], {}),
            ("Transpose", [], {"perm": [0, 1, 3, 2, 4]}),
            ("Reshape", [constant("pixels", [0, height * block, width * block, kept])], {}),
            ("Transpose", [], {"perm": [0, 3, 1, 2]}),
        ]
        value = dequantise.input[0]
        moved = []
        for n, (kind, inputs, more) in enumerate(steps):
            step = f"{node.name}/{n}"
            moved.append(helper.make_node(kind, [value, *inputs], [step], name=step, **more))
            value = step
        dequantise.input[0], dequantise.output[0] = value, node.output[0]
        quick.remove(node)
        place = quick.index(dequantise)
        quick[place:place] = moved
    return quick, [*initializers, *added]
