"""The slow copy of the network that the training attacker is aimed at."""

from __future__ import annotations

import copy

import torch
from torch import nn

__all__ = ["ExponentialMovingAverage"]


class ExponentialMovingAverage:
    """Moving average of a network's parameters and buffers, always in evaluation mode.

    The published code leaves its copy in training mode, so that attacks move its batch statistics and memory, and
    averages parameters only; both are mended here.

    Parameters
    ----------
    network : nn.Module
        Copied at once.
    decay : float
        0.9 in AIS.
    """

    def __init__(self, network: nn.Module, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"the moving average's decay must be in [0, 1), got {decay}")
        self.decay = decay
        self.network = copy.deepcopy(network).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move every floating value a step towards the network's, and copy the integer ones."""
        ours = self.network.state_dict()
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                ours[name].lerp_(value, 1 - self.decay)
            else:
                ours[name].copy_(value)
