"""The linear part of a projection with an int8 basis, by integer products: a quarter of the bytes, and exact sums.

Faces are 8-bit pictures, so the products of the first step are exact; the coefficients of the second are rounded to 14
bits of the largest one, which moves a pixel by a hundredth of a grey level. Both sides are taken apart into digits of
at most 128: a processor without VNNI adds two products of a byte in 16 bits, which overflow with larger ones.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["integer_constants", "integer_product"]

_BASE, _MIDDLE = 128, 64
_LEVELS = _BASE * (_MIDDLE - 1) + _BASE - 1  # 8191: what two digits from -64 to 64 can say on both sides of zero
_HALF_RANGE = 127.5


def integer_constants(mean: NDArray[np.float32], basis: NDArray[np.int8]) -> dict[str, NDArray[Any]]:
    """Initializers of :func:`integer_product`: what the mean face (D,) adds to the sums over pixels, and numbers."""
    offset = np.rint(_HALF_RANGE * (basis.astype(np.float64) @ (mean.astype(np.float64) + 1)))
    return {
        "integer.offset": offset.astype(np.int32),
        "integer.one": np.float32(1),
        "integer.half_range": np.float32(_HALF_RANGE),
        "integer.pixel": np.float32(1 / _HALF_RANGE),
        "integer.two": np.float32(2),
        "integer.twice": np.int32(2),
        "integer.across": np.array([1]),
        "integer.levels": np.float32(_LEVELS),
        "integer.least": np.float32(1e-30),
        "integer.base": np.float32(_BASE),
        "integer.middle": np.float32(_MIDDLE),
        "integer.zero_point": np.uint8(_MIDDLE),
    }


def integer_product(*, pixels: str, weights: str, rows: str, columns: str, output: str) -> list[Any]:
    """Nodes of ``(weights * ((pixels - mean) rows^T)) rows``.

    Parameters
    ----------
    pixels : str
        Value (N, D), float32: 8-bit pictures as numbers in [-1, 1]; what lies between is rounded.
    weights : str
        Value (N, K), float32.
    rows, columns : str
        Values (K, D) and (D, K), int8 from -127 to 127.
    output : str
        Its name, (N, D) float32.
    """
    from onnx import TensorProto, helper

    nodes: list[Any] = []

    def node(kind: str, inputs: list[str], name: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [name], name=f"projection/{name}", **attributes))
        return name

    def halves(value: str, names: tuple[str, str]) -> tuple[str, str]:
        nodes.append(
            helper.make_node("Split", [value], list(names), name=f"projection/{names[0]}", axis=0, num_outputs=2)
        )
        return names

    def both(first: str, second: str, name: str) -> str:
        return node("Cast", [node("Concat", [first, second], f"{name}.digits", axis=0)], name, to=TensorProto.UINT8)

    # A grey level g = 2 h + l.
    scaled = node(
        "Mul", [node("Add", [pixels, "integer.one"], "integer.shifted"), "integer.half_range"], "integer.scaled"
    )
    grey = node("Round", [scaled], "integer.grey")
    high = node("Floor", [node("Div", [grey, "integer.two"], "integer.halved")], "integer.high")
    low = node("Sub", [grey, node("Mul", [high, "integer.two"], "integer.even")], "integer.low")
    sums = node("MatMulInteger", [both(high, low, "integer.pixels"), columns], "integer.sums")
    high, low = halves(sums, ("integer.sums_high", "integer.sums_low"))
    total = node("Add", [node("Mul", [high, "integer.twice"], "integer.doubled"), low], "integer.total")
    centred = node(
        "Cast", [node("Sub", [total, "integer.offset"], "integer.centred")], "integer.product", to=TensorProto.FLOAT
    )
    factors = node("Mul", [weights, "integer.pixel"], "integer.factors")
    kept = node("Mul", [centred, factors], "integer.kept")
    # A coefficient n = 128 h + l of that many steps, both digits from -64 to 64.
    largest = node("ReduceMax", [node("Abs", [kept], "integer.sizes"), "integer.across"], "integer.largest", keepdims=1)
    step = node("Div", [node("Max", [largest, "integer.least"], "integer.nonzero"), "integer.levels"], "integer.step")
    count = node("Round", [node("Div", [kept, step], "integer.steps")], "integer.count")
    middle = node("Add", [count, "integer.middle"], "integer.raised")
    high = node("Floor", [node("Div", [middle, "integer.base"], "integer.ratio")], "integer.digit_high")
    low = node("Sub", [count, node("Mul", [high, "integer.base"], "integer.multiple")], "integer.digit_low")
    digits = both(
        node("Add", [high, "integer.middle"], "integer.unsigned_high"),
        node("Add", [low, "integer.middle"], "integer.unsigned_low"),
        "integer.coefficients",
    )
    sums = node("MatMulInteger", [digits, rows, "integer.zero_point"], "integer.spans")
    high, low = halves(sums, ("integer.spans_high", "integer.spans_low"))
    parts = [node("Cast", [part], f"{part}.float", to=TensorProto.FLOAT) for part in (high, low)]
    total = node("Add", [node("Mul", [parts[0], "integer.base"], "integer.weighed"), parts[1]], "integer.spanned")
    node("Mul", [total, step], output)
    return nodes
