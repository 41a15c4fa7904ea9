"""Training for int8: convolutions and linear layers compute as they will when they are quantised.

Inputs, weights and outputs are rounded to the grid of `export.quantisation` (symmetric, a scale for every output of the
weights and one for a tensor) and the gradient goes straight through (Jacob et al., CVPR 2018). Ranges are those of the
batch, so nothing is added to a checkpoint: the weights that come out are plain ones, which bear to be quantised later.
"""

from __future__ import annotations

import types

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from immunecam.training.straight_through import round_through

__all__ = ["quantise_in_training", "rounded_to_int8"]

_LARGEST = 127


def rounded_to_int8(values: Tensor, *, each: bool = False) -> Tensor:
    """Values on the grid of 255 steps from -max to max, with the gradient of the identity.

    Parameters
    ----------
    values : Tensor
        Of any shape.
    each : bool
        A largest value for every index of the first dimension (weights), not one for all.
    """
    with torch.no_grad():
        least = torch.finfo(values.dtype).tiny
        if each:
            step = (values.abs().flatten(1).amax(1) / _LARGEST).clamp_min(least)
            step = step.reshape(-1, *[1] * (values.dim() - 1))
        else:
            low, high = values.aminmax()
            step = (torch.maximum(high, -low) / _LARGEST).clamp_min(least)
    return round_through(values, step)


def quantise_in_training(network: nn.Module) -> None:
    """Let every convolution and linear layer of a network compute so while it is in training mode.

    Copies that were made before stay as they are; make none after.
    """
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            usual = _convolution if isinstance(module, nn.Conv2d) else _linear
            module.forward = types.MethodType(usual, module)  # type: ignore[method-assign]


def _convolution(layer: nn.Conv2d, x: Tensor) -> Tensor:
    if not layer.training:
        return layer._conv_forward(x, layer.weight, layer.bias)
    weight = rounded_to_int8(layer.weight, each=True)
    return rounded_to_int8(layer._conv_forward(rounded_to_int8(x), weight, layer.bias))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    if not layer.training:
        return F.linear(x, layer.weight, layer.bias)
    return rounded_to_int8(F.linear(rounded_to_int8(x), rounded_to_int8(layer.weight, each=True), layer.bias))
