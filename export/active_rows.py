"""The linear part of a projection as ONNX, which reads the active eigenfaces only where that is faster.

The antibodies of a batch share the rows that they read: those that any face uses are copied together once, and both
products read the copy. Above a share of active rows the copy costs more than it saves, and the whole basis is read: by
integer products, if it is int8.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["SHARE", "SHARE_OF_INTEGERS", "projection_nodes"]

SHARE = 0.4
"""Share of active rows below which they are copied.

With K = 512 rows of float32 both forms take the same at 0.4 to 0.6, for 1 to 8 faces, and the copy is 1.4 to 3 times
faster at 0.2 (``python -m immunecam.benchmarks.projection``).
"""

SHARE_OF_INTEGERS = 0.2
"""The same beside integer products (:func:`immunecam.export.integer_projection.integer_product`), for an int8 basis."""


def projection_nodes(
    k: int,
    d: int,
    *,
    antibody: str,
    weights: str,
    centred: str,
    rows: str,
    output: str,
    share: float | None = None,
    integers: Sequence[Any] | None = None,
) -> tuple[list[Any], list[Any]]:
    """Nodes and initializers of ``(weights * (centred rows^T)) rows``.

    Parameters
    ----------
    k, d : int
        Eigenfaces, and pixels of a face.
    antibody, weights : str
        Values (N, K): which rows a face uses, 0 where it does not and more where it does, and their factors.
    centred, rows : str
        Values (N, D), float32, and (K, D), float32 or, with `integers`, int8.
    output : str
        Its name, (N, D).
    share : float, optional
        Of active rows, from which on all are read. Default: `SHARE` or `SHARE_OF_INTEGERS`.
    integers : sequence of NodeProto, optional
        Nodes of the same product over all rows, whose output is "dense.spanned". Default: float32.
    """
    from onnx import TensorProto, helper, numpy_helper

    def product(chosen: str, factors: str, branch: str) -> list[Any]:
        return [
            helper.make_node("Gemm", [centred, chosen], [f"{branch}.coefficients"], transB=1),
            helper.make_node("Mul", [f"{branch}.coefficients", factors], [f"{branch}.kept"]),
            helper.make_node("MatMul", [f"{branch}.kept", chosen], [f"{branch}.spanned"]),
        ]

    def graph(nodes: Sequence[Any], branch: str) -> Any:
        value = helper.make_tensor_value_info(f"{branch}.spanned", TensorProto.FLOAT, ["N", d])
        return helper.make_graph(nodes, branch, [], [value])

    if share is None:
        share = SHARE if integers is None else SHARE_OF_INTEGERS
    dense = graph(integers or product(rows, weights, "dense"), "dense")
    copy = "active.rows" if integers is None else "active.int8"
    copies = [
        helper.make_node("Gather", [rows, "active.index"], [copy], axis=0),
        helper.make_node("Gather", [weights, "active.index"], ["active.weights"], axis=1),
    ]
    if integers is not None:
        copies.append(helper.make_node("Cast", [copy], ["active.rows"], to=TensorProto.FLOAT))
    active = graph([*copies, *product("active.rows", "active.weights", "active")], "active")
    initializers = [
        numpy_helper.from_array(np.array([0]), "active.faces"),
        numpy_helper.from_array(np.array([-1]), "active.flat"),
        numpy_helper.from_array(np.array([int(share * k)]), "active.most"),
        numpy_helper.from_array(np.array([], np.int64), "active.scalar"),
    ]
    chosen = [
        ("ReduceMax", [antibody, "active.faces"], "active.used", {"keepdims": 0}),
        ("NonZero", ["active.used"], "active.column", {}),
        ("Reshape", ["active.column", "active.flat"], "active.index", {}),
        ("Shape", ["active.index"], "active.count", {}),
        ("Less", ["active.count", "active.most"], "active.is_less", {}),
        ("Reshape", ["active.is_less", "active.scalar"], "active.pays", {}),
        ("If", ["active.pays"], output, {"then_branch": active, "else_branch": dense}),
    ]
    made = [
        helper.make_node(kind, inputs, [name], name=f"projection/{name}", **attributes)
        for kind, inputs, name, attributes in chosen
    ]
    return made, initializers
