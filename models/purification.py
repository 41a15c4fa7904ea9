"""The whole purification as one differentiable function: analysis, mutation, projection, restoration."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from immunecam.models.eigenspace import Eigenspace

__all__ = ["GRADIENTS", "Purification"]

# How the bits of the antibody are differentiated; the first two draw, the others do not.
GRADIENTS = ("projection", "straight-through", "expected", "threshold")


class Purification(nn.Module):
    """Faces in, purified faces out.

    Parameters
    ----------
    eigenspace : Eigenspace
        K eigenfaces.
    analyze : callable
        Faces (N, 112, 112) in [-1, 1] to probabilities (N, K).
    restore : callable, optional
        (faces, projected faces) to restored faces, all (N, 112, 112); None ends with the projection.
    """

    def __init__(
        self,
        eigenspace: Eigenspace,
        analyze: Callable[[Tensor], Tensor],
        restore: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.eigenspace, self.analyze, self.restore = eigenspace, analyze, restore

    def apply_antibody(self, faces: Tensor, antibody: Tensor) -> Tensor:
        """Faces (N, 112, 112) purified with given antibodies (N, K), in [-1, 1]."""
        projected = self.eigenspace.purify(faces, antibody).clamp(-1, 1)
        if self.restore is None:
            return projected
        return self.restore(faces, projected).clamp(-1, 1)

    def antibody(self, probability: Tensor, gradient: str = "straight-through") -> Tensor:
        """Antibodies (N, K) of probabilities (N, K).

        Parameters
        ----------
        gradient : str
            "projection": drawn bits, constant (the published training attack, which never sees the selector).
            "straight-through": drawn bits whose gradient is that of the probabilities (Bengio et al., 2013).
            "expected": the probabilities in place of bits. "threshold": ``p > 1/2`` with the straight-through gradient.
        """
        if gradient not in GRADIENTS:
            raise ValueError(f"gradient must be one of {', '.join(GRADIENTS)}, got {gradient!r}")
        if gradient == "expected":
            return probability
        fixed = probability.detach()
        bits = (fixed > 0.5).to(fixed.dtype) if gradient == "threshold" else torch.bernoulli(fixed)
        return bits if gradient == "projection" else bits + (probability - fixed)

    def forward(self, faces: Tensor, gradient: str = "straight-through") -> Tensor:
        """Purified faces (N, 112, 112), antibodies drawn anew at every call."""
        return self.apply_antibody(faces, self.antibody(self.analyze(faces), gradient))
