"""A recogniser of the size of MobileFaceNet on any number of input channels.

MobileFaceNet (Chen et al., CCBR 2018) with another first convolution: masked faces come with dozens of channels, and at
fewer positions than a face has pixels, in which case the first strides are left out.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from immunecam.models.unmasking import Unmasking

__all__ = ["MobileFace"]

# Expansion, channels, blocks, stride of the first of them: the paper's table.
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
_LAST = 7  # positions a side that the global depthwise convolution sees


class _SlopedReLU(nn.Module):
    """PReLU in whole-array operations: PyTorch's backward pass of it takes numbers one by one on a CPU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.slope = nn.PReLU(channels).weight

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return F.relu(x) - self.slope.reshape(-1, 1, 1) * F.relu(-x)
        return F.prelu(x, self.slope)


def _conv(
    inputs: int, outputs: int, size: int, stride: int = 1, *, each: bool = False, linear: bool = False
) -> list[nn.Module]:
    groups = inputs if each else 1
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False)
    layers: list[nn.Module] = [convolution, nn.BatchNorm2d(outputs)]
    return layers if linear else [*layers, _SlopedReLU(outputs)]


class _Bottleneck(nn.Module):
    """1x1 up, 3x3 each channel by itself, 1x1 down without a rectifier; beside an identity where shapes agree."""

    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        wide = expansion * inputs
        self.beside = stride == 1 and inputs == outputs
        self.body = nn.Sequential(
            *_conv(inputs, wide, 1), *_conv(wide, wide, 3, stride, each=True), *_conv(wide, outputs, 1, linear=True)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.beside else self.body(x)


class MobileFace(nn.Module):
    """Channels of faces to embeddings.

    Parameters
    ----------
    inputs : int
        Channels: 1 or 3 of a face, or those of a mask.
    positions : int
        Places a side: 112, 56, 28 or 14.
    size : int
        Of an embedding.
    width : float
        Factor of all inner channels; 1 is MobileFaceNet's.
    unmasking : bool
        Start with `Unmasking` to one plane of 112x112, on which everything after it is MobileFaceNet's.

    Raises
    ------
    ValueError
        If an argument is none of these.
    """

    def __init__(
        self, inputs: int, positions: int = 112, size: int = 128, width: float = 1.0, *, unmasking: bool = False
    ) -> None:
        super().__init__()
        if positions not in (14, 28, 56, 112):
            raise ValueError(f"a recogniser sees 112, 56, 28 or 14 positions a side, got {positions}")
        if inputs < 1 or size < 1 or not 0 < width <= 4:
            raise ValueError(
                f"a recogniser needs inputs and embedding of 1 or more and a width in (0, 4], got {inputs}, {size}, "
                f"{width}"
            )
        self.inputs, self.positions, self.size = inputs, positions, size
        self.enter = Unmasking(inputs, positions) if unmasking else None
        if unmasking:
            inputs, positions = 1, 112

        def scaled(channels: int) -> int:
            return max(8, 8 * round(channels * width / 8))

        to_skip = int(math.log2(_LAST * 2**4 / positions))  # the first of the four strides of 2

        def stride(wanted: int) -> int:
            nonlocal to_skip
            if wanted == 2 and to_skip:
                to_skip -= 1
                return 1
            return wanted

        channels = scaled(64)
        layers = [*_conv(inputs, channels, 3, stride(2)), *_conv(channels, channels, 3, each=True)]
        for expansion, wanted, blocks, first in _STAGES:
            for number in range(blocks):
                step = stride(first) if number == 0 else 1
                layers.append(_Bottleneck(channels, scaled(wanted), expansion, step))
                channels = scaled(wanted)
        top = scaled(512)
        self.trunk = nn.Sequential(*layers, *_conv(channels, top, 1))
        self.leave = nn.Sequential(
            nn.Conv2d(top, top, _LAST, groups=top, bias=False),
            nn.BatchNorm2d(top),
            nn.Conv2d(top, size, 1, bias=False),
            nn.BatchNorm2d(size),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, size) embeddings of unit length for (N, inputs, positions, positions)."""
        if self.enter is not None:
            x = self.enter(x)
        return F.normalize(self.leave(self.trunk(x)).flatten(1), dim=1)
