"""The residual block that every analyzer here is built from."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ResidualBlock"]


class ResidualBlock(nn.Module):
    """conv-norm-PReLU twice, beside a 1x1 conv-norm shortcut; the stride is on the second convolution.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    stride : int
        1 or 2.
    norm : bool
        Batch normalisation after each convolution (AIS); without it (PIN's ESN) the convolutions have a bias.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, norm: bool = True) -> None:
        super().__init__()

        def conv(i: int, o: int, size: int, s: int) -> list[nn.Module]:
            layer = nn.Conv2d(i, o, size, s, padding=size // 2, bias=not norm)
            return [layer, nn.BatchNorm2d(o)] if norm else [layer]

        self.body = nn.Sequential(
            *conv(inputs, outputs, 3, 1),
            nn.PReLU(outputs),
            *conv(outputs, outputs, 3, stride),
            nn.PReLU(outputs),
        )
        self.shortcut = nn.Sequential(*conv(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)
