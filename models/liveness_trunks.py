"""Small forms of four backbones for liveness, in plain PyTorch: VGG, ResNet, DenseNet, Swin.

Every trunk is a chain of four named stages that ends at 1/16 of the input's side (7x7 for 112x112), so that heads fit
any of them and an attack may change the features between two stages. Widths are chosen for doors: the published
networks have 8 to 138 million weights, these at most 1.5 million.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["LAYERS", "TRUNKS", "Trunk"]

LAYERS = ("stem", "stage1", "stage2", "stage3")


class Trunk(nn.Module):
    """A chain of stages from pictures to a feature map.

    Parameters
    ----------
    stages : sequence of Module
        In the order of `LAYERS`; each maps (N, C, H, W) to (N, C', H', W').
    channels : int
        Of the last one's features.
    """

    def __init__(self, *stages: nn.Module, channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(zip(LAYERS, stages, strict=True))
        self.channels = channels

    def forward(self, x: Tensor, after: str | None = None, until: str = LAYERS[-1]) -> Tensor:
        """Features of layer `until`, from pictures or from the features of layer `after`."""
        first = 0 if after is None else LAYERS.index(after) + 1
        for name in LAYERS[first : LAYERS.index(until) + 1]:
            x = self.stages[name](x)
        return x


def _conv(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _vgg(side: int) -> Trunk:
    """Pairs of 3x3 convolutions between maximum poolings (Simonyan and Zisserman, ICLR 2015), normalised by batch."""

    def stage(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.MaxPool2d(2), *_conv(inputs, outputs), *_conv(outputs, outputs))

    stem = nn.Sequential(*_conv(3, 24, 2))
    return Trunk(stem, stage(24, 32), stage(32, 80), stage(80, 160), channels=160)


class _Residual(nn.Module):
    """Two 3x3 convolutions beside an identity, or a 1x1 convolution where shapes change (He et al., CVPR 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_conv(inputs, outputs, stride), *_conv(outputs, outputs)[:2])
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


def _resnet(side: int) -> Trunk:
    def stage(inputs: int, outputs: int, depth: int) -> nn.Module:
        blocks = [_Residual(inputs, outputs, 2), *(_Residual(outputs, outputs, 1) for _ in range(depth - 1))]
        return nn.Sequential(*blocks)

    stem = nn.Sequential(*_conv(3, 24, 2))
    return Trunk(stem, stage(24, 32, 1), stage(32, 64, 2), stage(64, 144, 2), channels=144)


class _Dense(nn.Module):
    """Norm, ReLU, 1x1 and 3x3 convolution, whose output is put beside the input (Huang et al., CVPR 2017)."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.ReLU(),
            nn.Conv2d(inputs, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def _densenet(side: int) -> Trunk:
    growth, width = 20, 32
    stages: list[nn.Module] = [nn.Sequential(*_conv(3, width, 2))]
    for depth in (3, 5, 7):
        blocks: list[nn.Module] = [nn.AvgPool2d(2)]
        for _ in range(depth):
            blocks.append(_Dense(width, growth))
            width += growth
        if depth == 7:
            blocks += [nn.BatchNorm2d(width), nn.ReLU()]
        else:  # the transition halves the channels
            blocks += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False)]
            width //= 2
        stages.append(nn.Sequential(*blocks))
    return Trunk(*stages, channels=width)


class _WindowAttention(nn.Module):
    """Self-attention within windows, with a bias for each relative position (Liu et al., ICCV 2021)."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.qkv, self.leave = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.bias, std=0.02)
        places = torch.tensor(list(itertools.product(range(window), repeat=2)))
        apart = places[:, None] - places[None] + window - 1
        self.register_buffer("place", apart[..., 0] * (2 * window - 1) + apart[..., 1], persistent=False)

    def forward(self, x: Tensor, apart: Tensor | None) -> Tensor:
        """Windows (N * W, window^2, C); `apart` (W, window^2, window^2) is True where two must not see each other."""
        count, tokens, width = x.shape
        q, k, v = self.qkv(x).reshape(count, tokens, 3, self.heads, -1).permute(2, 3, 0, 1, 4).unbind(0)
        scores = (q @ k.transpose(-2, -1)) * (width // self.heads) ** -0.5  # (heads, N * W, T, T)
        scores = scores + self.bias[self.place].permute(2, 0, 1).unsqueeze(1)
        if apart is not None:
            split = scores.reshape(self.heads, -1, len(apart), tokens, tokens)
            scores = split.masked_fill(apart, -100.0).reshape(scores.shape)
        mixed = scores.softmax(-1) @ v
        return self.leave(mixed.permute(1, 2, 0, 3).reshape(count, tokens, width))


class _SwinBlock(nn.Module):
    """Attention in windows, shifted by half of one or not, and a perceptron; both after a norm and beside identity."""

    def __init__(self, width: int, heads: int, window: int, side: int, shifted: bool) -> None:
        super().__init__()
        self.window, self.side = window, side
        self.shift = window // 2 if shifted and side > window else 0
        self.before, self.attention = nn.LayerNorm(width), _WindowAttention(width, heads, window)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.GELU(), nn.Linear(3 * width, width)
        )
        apart = None
        if self.shift:
            # After the roll, a window at the rim holds pieces from opposite sides of the picture.
            line = torch.zeros(side, dtype=torch.long)
            line[side - window : side - self.shift], line[side - self.shift :] = 1, 2
            piece = self._windows((3 * line[:, None] + line[None]).reshape(1, side, side, 1).float())[..., 0]
            apart = piece[:, :, None] != piece[:, None]
        self.register_buffer("apart", apart, persistent=False)

    def _windows(self, x: Tensor) -> Tensor:
        count, side, _, width = x.shape
        n, w = side // self.window, self.window
        return x.reshape(count, n, w, n, w, width).transpose(2, 3).reshape(count * n * n, w * w, width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, side, side, C) to the same."""
        count, side, _, width = x.shape
        n, w = side // self.window, self.window
        y = self.before(x)
        if self.shift:
            y = torch.roll(y, (-self.shift, -self.shift), (1, 2))
        y = self.attention(self._windows(y), self.apart)
        y = y.reshape(count, n, n, w, w, width).transpose(2, 3).reshape(count, side, side, width)
        if self.shift:
            y = torch.roll(y, (self.shift, self.shift), (1, 2))
        x = x + y
        return x + self.perceptron(x)


class _SwinStage(nn.Module):
    """Two blocks over patches that a strided convolution has merged; features go in and out as (N, C, H, W)."""

    def __init__(self, inputs: int, width: int, heads: int, window: int, side: int) -> None:
        super().__init__()
        self.merge, self.norm = nn.Conv2d(inputs, width, 2, 2), nn.LayerNorm(width)
        self.blocks = nn.Sequential(
            *(_SwinBlock(width, heads, window, side, shifted) for shifted in (False, True)), nn.LayerNorm(width)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.norm(self.merge(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)


def _swin(side: int) -> Trunk:
    """Windows of 1/16 of the picture's side, as 7 of 112, and a convolution as the first half of the patch embedding.

    Deviations from the paper, for 1.5 million weights: no dropped paths, a perceptron of three times the width, a norm
    after every stage, and patches of 2 merged three times instead of one embedding of 4.
    """
    window = side // 16
    stages: list[nn.Module] = [nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1), nn.GELU())]
    for inputs, width, heads, part in ((24, 48, 2, 4), (48, 96, 4, 8), (96, 192, 8, 16)):
        stages.append(_SwinStage(inputs, width, heads, window, side // part))
    trunk = Trunk(*stages, channels=192)
    for layer in trunk.modules():
        if isinstance(layer, nn.Linear):  # the paper's; from PyTorch's own start it hardly learns at all
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
    return trunk


TRUNKS: MappingProxyType[str, Callable[[int], Trunk]] = MappingProxyType(
    {"vgg": _vgg, "resnet": _resnet, "densenet": _densenet, "swin": _swin}
)
