"""A network that tries to see: masked channels to the face that they were made of.

A small U-Net, the recovery attack of the frequency-masking papers (PPFR-FD, PartialFace, MinusFace) in a form that two
CPU cores can train; theirs were not at hand, so figures compare masks with each other and not with those papers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["RecoveryNetwork"]

_SIDE = 112


def _block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class RecoveryNetwork(nn.Module):
    """A U-Net whose output has a face's size, whatever the number of positions.

    Parameters
    ----------
    channels, positions : int
        Of what is seen: 14, 28, 56 or 112 positions a side.
    planes : int
        Of the faces, 1 or 3.
    widths : sequence of int
        Channels from the finest level on. An odd number of positions cannot be halved, so those of the levels after it
        are left out: of 14 positions the third.

    Raises
    ------
    ValueError
        If the positions make no face, or there is no width.
    """

    def __init__(self, channels: int, positions: int, planes: int = 1, widths: Sequence[int] = (32, 64, 96)) -> None:
        super().__init__()
        if _SIDE % positions or not widths:
            raise ValueError(
                f"a recovery network needs positions that divide {_SIDE} and a width, got {positions} and "
                f"{list(widths)}"
            )
        widths = [width for level, width in enumerate(widths) if positions % 2**level == 0]
        larger = _SIDE // positions
        self.enter = _block(channels, widths[0])
        pairs = list(itertools.pairwise(widths))
        self.down = nn.ModuleList(nn.Sequential(nn.MaxPool2d(2), _block(fine, coarse)) for fine, coarse in pairs)
        self.grow = nn.ModuleList(nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in pairs)
        self.up = nn.ModuleList(_block(2 * fine, fine) for fine, _ in pairs)
        self.leave = nn.Sequential(nn.Conv2d(widths[0], planes * larger**2, 3, padding=1), nn.PixelShuffle(larger))

    def forward(self, channels: Tensor) -> Tensor:
        """(N, planes, 112, 112) in [-1, 1] for (N, channels, positions, positions)."""
        x = self.enter(channels)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        for grow, up, skip in zip(reversed(self.grow), reversed(self.up), reversed(skips), strict=True):
            x = up(torch.cat([skip, grow(x)], 1))
        return torch.tanh(self.leave(x))
