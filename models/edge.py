"""Edge: the same antibody from an analyzer that a small processor can afford."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from immunecam.models.ais import AIS, AntibodyGenerator, PooledFeature
from immunecam.models.layers import ResidualBlock, activation
from immunecam.models.memory import AntigenMemory
from immunecam.models.noise_level import NoiseLevel

__all__ = ["EdgeAnalyzer", "edge"]


class EdgeAnalyzer(nn.Module):
    """Stride-2 stem and six residual blocks; (N, 1, 112, 112) -> (N, 4 * width, 7, 7).

    At width 32 the whole network is 121 MMAC, a twentieth of AIS; with the face at half its size (`input_size` 56) a
    third of that.
    """

    def __init__(self, width: int = 32, *, sees_noise: bool = False, act: str = "prelu", input_size: int = 112) -> None:
        super().__init__()
        if input_size not in (56, 112):
            raise ValueError(f"the analyzer looks at faces of 56 or 112 pixels, not of {input_size}")
        self.shrink = nn.AvgPool2d(2) if input_size == 56 else nn.Identity()
        stem = 3 * width // 4
        self.noise = NoiseLevel() if sees_noise else None
        enter = nn.Conv2d(2 if sees_noise else 1, stem, 3, 2, padding=1, bias=False)
        self.stem = nn.Sequential(enter, nn.BatchNorm2d(stem), activation(act, stem))
        blocks = []
        inputs = stem
        for stage, stride in ((width, 2), (2 * width, 2), (4 * width, 2 if input_size == 112 else 1)):
            blocks += [ResidualBlock(inputs, stage, stride, act=act), ResidualBlock(stage, stage, 1, act=act)]
            inputs = stage
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        if self.noise is not None:
            x = torch.cat([x, self.noise(x, (112, 112))], 1)
        return self.blocks(self.stem(self.shrink(x)))


def edge(
    k: int = 832,
    *,
    width: int = 32,
    dim: int = 256,
    memory_slots: int = 0,
    memory_temperature: float = 0.1,
    prior: tuple[float, float] = (4.0, 0.0),
    sees_noise: bool = False,
    act: str = "prelu",
    input_size: int = 112,
) -> AIS:
    """AIS with the small analyzer; the memory is left out unless `memory_slots` asks for it.

    `sees_noise` (an addition of this project) tells the analyzer the noise level of the face, see `NoiseLevel`.
    `act` is the analyzer's `activation`, `input_size` the side (56 or 112) at which it looks at the face.
    """
    memory = AntigenMemory(memory_slots, dim, temperature=memory_temperature) if memory_slots else None
    return AIS(
        EdgeAnalyzer(width, sees_noise=sees_noise, act=act, input_size=input_size),
        PooledFeature(4 * width, dim),
        memory,
        AntibodyGenerator(dim, k, prior=prior),
    )
