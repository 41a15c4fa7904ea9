"""PReLU as operators that ONNX Runtime has vectorised for a CPU.

Its own PReLU decides number by number, and takes tensors out of the layout that its convolutions work in. The same
function is ``x + (1 - a) relu(-x)``: both products are depthwise 1x1 convolutions, which stay in it, and into which the
rectifier and the sum are fused. It rounds differently in the last bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["quick_slopes", "with_quick_slopes"]


def quick_slopes(nodes: Sequence[Any], initializers: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Nodes and initializers of the same function.

    Parameters
    ----------
    nodes : sequence of NodeProto
        In order. A PRelu of (N, C, H, W) whose slopes are constants (C, 1, 1) or (1, C, 1, 1), or cast from ones, is
        replaced; others stay.
    initializers : sequence of TensorProto
        Their values may lie in another file.
    """
    from onnx import helper, numpy_helper

    constants = {tensor.name: tensor for tensor in initializers}
    casts = {node.output[0]: node.input[0] for node in nodes if node.op_type == "Cast"}
    quick: list[Any] = []
    added: dict[str, Any] = {}

    def constant(name: str, value: Any) -> str:
        added.setdefault(name, numpy_helper.from_array(np.asarray(value), name))
        return name

    for node in nodes:
        slopes = constants.get(casts.get(node.input[1], node.input[1])) if node.op_type == "PRelu" else None
        shape = () if slopes is None else tuple(slopes.dims)
        if shape[-2:] != (1, 1) or not (len(shape) == 3 or (len(shape) == 4 and shape[0] == 1)):
            quick.append(node)
            continue
        (x, slope), (y,), channels = node.input, node.output, shape[-3]
        turn = constant(f"slopes.turn.{channels}", np.full((channels, 1, 1, 1), -1, np.float32))
        one = constant("slopes.one", np.float32(1))
        weights = constant(f"slopes.shape.{channels}", np.array([channels, 1, 1, 1]))
        each = {"group": channels, "kernel_shape": [1, 1]}
        for kind, inputs, output, attributes in (
            ("Sub", [one, slope], "rest", {}),  # this and the next are folded when the graph is loaded
            ("Reshape", [f"{y}.rest", weights], "scale", {}),
            ("Conv", [x, turn], "turned", each),
            ("Relu", [f"{y}.turned"], "below", {}),
            ("Conv", [f"{y}.below", f"{y}.scale"], "scaled", each),
            ("Add", [f"{y}.scaled", x], "", {}),
        ):
            name = f"{y}.{output}" if output else y
            quick.append(helper.make_node(kind, inputs, [name], name=f"{node.name}/{output or 'sum'}", **attributes))
    return quick, [*initializers, *added.values()]


def with_quick_slopes(graph: bytes) -> bytes:
    """A whole model so changed: an ONNX file without external data, passed by onnx's full checker."""
    import onnx

    model = onnx.load_from_string(graph)
    nodes, initializers = quick_slopes(model.graph.node, model.graph.initializer)
    del model.graph.node[:], model.graph.initializer[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(initializers)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))
