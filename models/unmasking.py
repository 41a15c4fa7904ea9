"""A recogniser's first layer that takes masked channels back towards a face: one convolution, fitted, then trained.

What is kept of a mask is linear in the face, so the best affine guess of the face from the channels around a place is a
convolution, too. In front of a network of plain faces it makes a recogniser of masked ones that works before it was
trained at all. A thing to know: it undoes the mask as far as that can be done, shuffling included. Whoever has such a
recogniser's weights needs no key; they are as secret as the key is, and belong on the device that has it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["REACH", "Unmasking"]

REACH = 3
"""Positions a side that a pixel is told from."""
_SIDE = 112


class Unmasking(nn.Module):
    """Masked channels to planes of the size of a face.

    Parameters
    ----------
    channels, positions : int
        Of a masked face; the positions divide 112.
    planes : int
        Of the face, 1 or 3.
    """

    def __init__(self, channels: int, positions: int, planes: int = 1) -> None:
        super().__init__()
        self.larger = _SIDE // positions
        self.weight = nn.Parameter(torch.randn(planes * self.larger**2, channels, REACH, REACH) * 0.01)
        self.bias = nn.Parameter(torch.zeros(planes * self.larger**2))

    @torch.no_grad()
    def take(self, weight: Tensor, bias: Tensor) -> None:
        """The weights of a solved recovery, (planes * s * s, C, 3, 3) and (planes * s * s,).

        Raises
        ------
        ValueError
            If they have other shapes.
        """
        if weight.shape != self.weight.shape or bias.shape != self.bias.shape:
            raise ValueError(
                f"an unmasking layer of {tuple(self.weight.shape)} cannot take weights of {tuple(weight.shape)}"
            )
        self.weight.copy_(weight)
        self.bias.copy_(bias)

    def forward(self, channels: Tensor) -> Tensor:
        """(N, planes, 112, 112) for (N, C, positions, positions); not clipped."""
        padded = F.pad(channels, (REACH // 2,) * 4, mode="replicate")
        return F.pixel_shuffle(F.conv2d(padded, self.weight, self.bias), self.larger)
