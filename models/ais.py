"""AIS, the artificial immune system: analyzer, memory and antibody generator (IJCV 2024), and their assembly."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from immunecam.models.layers import ResidualBlock, activation
from immunecam.models.memory import AntigenMemory
from immunecam.models.restorer import Restorer

__all__ = ["AIS", "AntibodyGenerator", "AntigenAnalyzer", "AntigenFeature", "PooledFeature", "ais"]


class AntigenAnalyzer(nn.Module):
    """H: conv 1 -> 64, PReLU and eight residual blocks; (N, 1, 112, 112) -> (N, 512, 7, 7), 2.63 GMAC.

    Parameters
    ----------
    norm : bool
        Batch normalisation in the blocks: yes in AIS, no in PIN's encoder.
    act : str
        Of `activation`; PReLU in both papers.
    """

    channels = 512

    def __init__(self, *, norm: bool = True, act: str = "prelu") -> None:
        super().__init__()
        widths = (64, 64, 128, 128, 256, 256, 512, 512)
        blocks = []
        inputs = 64
        for number, width in enumerate(widths):
            blocks.append(ResidualBlock(inputs, width, 2 - number % 2, norm=norm, act=act))
            inputs = width
        self.stem = nn.Sequential(nn.Conv2d(1, 64, 3, padding=1), activation(act, 64))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(self.stem(x))


class AntigenFeature(nn.Module):
    """f = PReLU(BN(Linear(25088 -> 512))) of the analyzer's map; (N, C, 7, 7) -> (N, dim)."""

    def __init__(self, channels: int = 512, dim: int = 512) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Flatten(), nn.Linear(channels * 49, dim, bias=False), nn.BatchNorm1d(dim), nn.PReLU(dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class PooledFeature(nn.Module):
    """A 7x7 depth-wise convolution instead of the paper's 25088 -> 512 layer, then a linear one.

    It keeps one weight a place and channel, as MobileFaceNet does, at a fortieth of the parameters.
    """

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 7, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Flatten(),
            nn.Linear(channels, dim, bias=False),
            nn.BatchNorm1d(dim),
            nn.PReLU(dim),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class AntibodyGenerator(nn.Module):
    """G: Linear(dim -> K), then a sigmoid: one activation probability for every eigenface.

    Parameters
    ----------
    dim, k : int
        Size of the feature, number of eigenfaces.
    batch_norm : bool
        The paper's batch normalisation before the sigmoid. Off (deviation): it ties the activation rate of an
        eigenface to the batch, and makes training and evaluation differ at the paper's batch of 4.
    prior : tuple of float
        Deviation: logits that the bias starts from, falling linearly from the first eigenface to the last. Leading
        eigenfaces carry the face, so starting all at probability 1/2 destroys every clone of the first epochs.
    """

    def __init__(self, dim: int, k: int, *, batch_norm: bool = False, prior: tuple[float, float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.linear = nn.Linear(dim, k)
        self.norm = nn.BatchNorm1d(k) if batch_norm else nn.Identity()
        with torch.no_grad():
            self.linear.bias += torch.linspace(prior[0], prior[1], k)

    def forward(self, feature: Tensor) -> Tensor:
        """(N, K) logits; the probability is their sigmoid."""
        return self.norm(self.linear(feature))


class AIS(nn.Module):
    """A face in, a probability for every eigenface out.

    Parameters
    ----------
    analyzer : nn.Module
        (N, 1, 112, 112) -> (N, C, h, w).
    feature : nn.Module
        (N, C, h, w) -> (N, dim).
    memory : AntigenMemory or None
        Replaces the feature by what it recalls; None passes the feature on.
    generator : AntibodyGenerator
        (N, dim) -> (N, K) logits.
    """

    def __init__(
        self,
        analyzer: nn.Module,
        feature: nn.Module,
        memory: AntigenMemory | None,
        generator: AntibodyGenerator,
    ) -> None:
        super().__init__()
        self.analyzer, self.feature, self.generator = analyzer, feature, generator
        self.restorer: Restorer | None = None  # an option of `build_model`
        self.memory: nn.Module = memory if memory is not None else nn.Identity()

    @property
    def k(self) -> int:
        """Number of eigenfaces."""
        return self.generator.linear.out_features

    def logits(self, faces: Tensor) -> Tensor:
        """(N, K) logits for faces (N, 112, 112) in [-1, 1]."""
        return self.generator(self.memory(self.feature(self.analyzer(faces.unsqueeze(1)))))

    def forward(self, faces: Tensor) -> Tensor:
        """(N, K) probabilities for faces (N, 112, 112) in [-1, 1]."""
        return torch.sigmoid(self.logits(faces))


def ais(
    k: int = 1500,
    *,
    dim: int = 512,
    memory_slots: int = 128,
    memory_temperature: float = 0.1,
    memory_decay: float = 0.999,
    memory_revive_after: int = 500,
    generator_batch_norm: bool = False,
    prior: tuple[float, float] = (0.0, 0.0),
    pooled: bool = False,
    act: str = "prelu",
) -> AIS:
    """The network of the paper; `memory_slots=0` leaves the memory out. Deviations as in the parts.

    `pooled` (deviation) puts `PooledFeature` in the place of the 25088 -> dim layer, half of the network's weights.
    `act` is the analyzer's `activation`.
    """
    memory = (
        AntigenMemory(
            memory_slots,
            dim,
            decay=memory_decay,
            temperature=memory_temperature,
            revive_after=memory_revive_after,
        )
        if memory_slots
        else None
    )
    generator = AntibodyGenerator(dim, k, batch_norm=generator_batch_norm, prior=prior)
    feature = PooledFeature(512, dim) if pooled else AntigenFeature(512, dim)
    return AIS(AntigenAnalyzer(act=act), feature, memory, generator)
