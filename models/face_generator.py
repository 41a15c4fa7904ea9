"""A conditional GAN of faces: what an attacker who has faces of other people knows of faces in general.

Known of the inversion that masks are judged by (Wang et al., arXiv 2403.10558): a conditional GAN, searched in its
latent space. Its layers and losses are reconstructed here, small enough for two CPU cores, so figures compare masks
with each other and not with that paper.
"""

from __future__ import annotations

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["NOISE", "FaceCritic", "FaceGenerator"]

NOISE = 32
"""Random numbers beside the condition."""
_START = 7


def _up(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class FaceGenerator(nn.Module):
    """Noise and an embedding to a face.

    Parameters
    ----------
    condition : int
        Length of an embedding.
    width : int
        Channels at the finest level but one; coarser levels have up to eight times as many.
    """

    def __init__(self, condition: int, width: int = 16) -> None:
        super().__init__()
        self.condition = condition
        widths = [8 * width, 8 * width, 4 * width, 2 * width, width]
        self.enter = nn.Linear(NOISE + condition, widths[0] * _START**2)
        self.body = nn.Sequential(
            nn.BatchNorm2d(widths[0]),
            nn.ReLU(),
            *(_up(one, other) for one, other in itertools.pairwise(widths)),
            nn.Conv2d(width, 1, 3, padding=1),
        )

    @property
    def latent(self) -> int:
        """Numbers that a face is made of: noise, then embedding."""
        return NOISE + self.condition

    def forward(self, latent: Tensor) -> Tensor:
        """(N, 1, 112, 112) in [-1, 1] for (N, latent); embeddings are of unit length in the training."""
        return torch.tanh(self.body(self.enter(latent).reshape(len(latent), -1, _START, _START)))


class FaceCritic(nn.Module):
    """Real face of that embedding, or not: a projection discriminator (Miyato and Koyama, ICLR 2018).

    Parameters
    ----------
    condition, width : int
        As of the generator.
    """

    def __init__(self, condition: int, width: int = 16) -> None:
        super().__init__()
        widths = [1, width, 2 * width, 4 * width, 8 * width]
        layers: list[nn.Module] = []
        for one, other in itertools.pairwise(widths):
            layers += [nn.utils.parametrizations.spectral_norm(nn.Conv2d(one, other, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers)
        self.score = nn.Linear(widths[-1], 1)
        self.project = nn.Linear(condition, widths[-1], bias=False)

    def forward(self, faces: Tensor, condition: Tensor) -> Tensor:
        """(N,) scores for (N, 1, 112, 112) and (N, condition)."""
        seen = self.body(faces).mean((2, 3))
        return self.score(seen).squeeze(1) + (seen * F.normalize(self.project(condition), dim=1)).sum(1)
