"""PReLU in operators that ONNX Runtime computes in whole vectors on a CPU; its own takes numbers one by one.

``PReLU(x) = relu(x) + a (x - relu(x))`` is exact, for one of the two terms is zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["split_prelu"]


def split_prelu(nodes: Iterable[Any]) -> list[Any]:
    """The nodes (NodeProto) in order, each PRelu as four others that give the same numbers."""
    from onnx import helper

    split: list[Any] = []
    for node in nodes:
        if node.op_type != "PRelu":
            split.append(node)
            continue
        (x, slope), (y,) = node.input, node.output
        for kind, inputs, output in (
            ("Relu", [x], f"{y}.positive"),
            ("Sub", [x, f"{y}.positive"], f"{y}.negative"),
            ("Mul", [f"{y}.negative", slope], f"{y}.weighted"),
            ("Add", [f"{y}.positive", f"{y}.weighted"], y),
        ):
            split.append(helper.make_node(kind, inputs, [output], name=f"{node.name}/{kind}"))
    return split
