"""Rounding forwards, the identity backwards (the straight-through estimator, Bengio et al. 2013)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["round_through"]


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, values: Tensor, step: Tensor | float) -> Tensor:
        return (values / step).round_().mul_(step)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient, None


def round_through(values: Tensor, step: Tensor | float = 1.0) -> Tensor:
    """The nearest multiple of `step` (halves to even), with the gradient of the identity.

    Parameters
    ----------
    values : Tensor
        Of any shape.
    step : Tensor or float
        Positive; broadcast to `values`, and taken for a constant.
    """
    rounded: Tensor = _Rounded.apply(values, step)
    return rounded
