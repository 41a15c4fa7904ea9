"""ArcFace for mixed faces: a margin for every label that a mix has, weighted by its share."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["ArcFace"]


class ArcFace(nn.Module):
    """Additive angular margin (Deng et al., CVPR 2019), summed over labels: ``sum_j l_j ArcFace(f(X), y_j)``.

    Each term is the cross-entropy of a face that has that one label: the margin is on it alone, and the other labels of
    the mix are wrong answers in it, as in mixup's loss.

    Parameters
    ----------
    classes : int
        People.
    size : int
        Of an embedding.
    scale, margin : float
        64 and 0.5 in the paper, for far more people than a small set has.
    """

    def __init__(self, classes: int, size: int, scale: float = 32.0, margin: float = 0.4) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"ArcFace tells at least 2 people apart, got {classes}")
        self.scale, self.margin = scale, margin
        self.weight = nn.Parameter(torch.randn(classes, size) * size**-0.5)

    def forward(self, embeddings: Tensor, labels: Tensor, shares: Tensor) -> Tensor:
        """Loss of every mix.

        Parameters
        ----------
        embeddings : Tensor
            (N, size) of unit length.
        labels : Tensor
            (N, K) int64; where a share is 0 any number, also a negative one.
        shares : Tensor
            (N, K) of 0 or more. They need not sum to 1: faces without a label have no term.

        Returns
        -------
        Tensor
            (N,) in nats.
        """
        cosines = embeddings @ F.normalize(self.weight, dim=1).T
        loss = embeddings.new_zeros(len(embeddings))
        for label, share in zip(labels.unbind(1), shares.unbind(1), strict=True):
            if not bool((share > 0).any()):
                continue
            place = label.clamp_min(0).unsqueeze(1)
            logits = cosines.scatter(1, place, self._with_margin(cosines.gather(1, place)))
            loss = loss + share * F.cross_entropy(self.scale * logits, place.squeeze(1), reduction="none")
        return loss

    def _with_margin(self, cosine: Tensor) -> Tensor:
        """``cos(theta + m)``, and beyond pi - m, where that would rise again, ``cos(theta) - m sin(m)``."""
        sine = (1 - cosine.square()).clamp_min(1e-7).sqrt()
        moved = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        return torch.where(cosine > -math.cos(self.margin), moved, cosine - self.margin * math.sin(self.margin))
