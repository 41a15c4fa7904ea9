"""QuantizeLinear and DequantizeLinear of ONNX, with a gradient.

Whole numbers between the two stay in float32, where 8 bits are exact, for PyTorch has no gradient through integers.
Rounding lets the gradient through, and saturation stops it, as what is beyond the range does not change the result:
what an attacker of a quantised network does (backward pass differentiable approximation, Athalye et al. 2018).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from immunecam.training.straight_through import round_through

__all__ = ["dequantize_linear", "quantize_linear"]


def quantize_linear(values: list[Any], attributes: dict[str, Any]) -> Tensor:
    """``saturate(round(x / scale) + zero_point)``, as whole numbers in the type of x.

    Raises
    ------
    ValueError
        For a form that is not here: blocks, or numbers of other than 8 bits.
    """
    x = values[0]
    scale, zero = _scale_and_zero(values, attributes)
    # ONNX: without a zero point the numbers are unsigned, unless an attribute says otherwise (opset 21).
    kind = zero.dtype if zero is not None else torch.uint8
    if kind not in (torch.uint8, torch.int8) or attributes.get("output_dtype", 0):
        raise ValueError(f"QuantizeLinear to {kind} or with output_dtype has no form here: use 8 bits and a zero point")
    whole = round_through(x / scale)
    if zero is not None:
        whole = whole + zero.to(x.dtype)
    limits = torch.iinfo(kind)
    return whole.clamp(limits.min, limits.max)


def dequantize_linear(values: list[Any], attributes: dict[str, Any]) -> Tensor:
    """``(x - zero_point) * scale``.

    Raises
    ------
    ValueError
        For blocks.
    """
    scale, zero = _scale_and_zero(values, attributes)
    x = values[0].to(scale.dtype)
    return (x if zero is None else x - zero.to(scale.dtype)) * scale


def _scale_and_zero(values: list[Any], attributes: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    """Scale and zero point (None: there is none), both in a shape that broadcasts to x."""
    if attributes.get("block_size", 0):
        raise ValueError("a quantisation by blocks has no form here: quantise by tensor or by channel")
    x, scale = values[0], values[1]
    zero = values[2] if len(values) > 2 else None
    shape = [1] * x.ndim
    if scale.numel() > 1:
        shape[attributes.get("axis", 1)] = -1
    return scale.reshape(shape), None if zero is None else zero.reshape(shape)
