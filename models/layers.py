"""The residual block that every analyzer here is built from, and its activation."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["ResidualBlock", "activation"]

_ACTIVATIONS = ("prelu", "relu")


def activation(kind: str, channels: int) -> nn.Module:
    """A layer of "prelu" (the papers', a slope for every channel) or "relu".

    ONNX Runtime computes ReLU within the convolution before it, in int8, too; PReLU takes it half as long again as the
    convolution itself.

    Raises
    ------
    ValueError
        For another kind.
    """
    if kind not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, got {kind!r}")
    return nn.PReLU(channels) if kind == "prelu" else nn.ReLU()


class ResidualBlock(nn.Module):
    """conv-norm-activation twice, beside a 1x1 conv-norm shortcut; the stride is on the second convolution.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    stride : int
        1 or 2.
    norm : bool
        Batch normalisation after each convolution (AIS); without it (PIN's ESN) the convolutions have a bias.
    act : str
        Of `activation`.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, norm: bool = True, act: str = "prelu") -> None:
        super().__init__()

        def conv(i: int, o: int, size: int, s: int) -> list[nn.Module]:
            layer = nn.Conv2d(i, o, size, s, padding=size // 2, bias=not norm)
            return [layer, nn.BatchNorm2d(o)] if norm else [layer]

        self.body = nn.Sequential(
            *conv(inputs, outputs, 3, 1),
            activation(act, outputs),
            *conv(outputs, outputs, 3, stride),
            activation(act, outputs),
        )
        self.shortcut = nn.Sequential(*conv(inputs, outputs, 1, stride))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + self.shortcut(x)
