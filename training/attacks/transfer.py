"""Attacks made to carry over to other recognisers: momentum, input diversity, translation invariance."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from immunecam.training.attacks.base import LinfAttack, check_above_zero, check_count, linf_box
from immunecam.training.attacks.goals import Goal

__all__ = ["DIFGSM", "MIFGSM", "TIFGSM", "gaussian_kernel"]


@dataclass(frozen=True)
class MIFGSM(LinfAttack):
    """Steps along the sign of a decaying sum of L1-normalised gradients (Dong et al., CVPR 2018).

    Attributes
    ----------
    steps : int
        Of ``epsilon / steps`` each.
    decay : float
        Of the sum.
    """

    steps: int = 10
    decay: float = 1.0

    def __post_init__(self) -> None:
        check_count(self, "steps")
        if not 0 <= self.decay < math.inf:
            raise ValueError(f"decay must be finite and at least 0, got {self.decay}")

    def _seen(self, faces: Tensor) -> Tensor:
        """What the gradient is taken through, besides the recogniser."""
        return faces

    def _smoothed(self, gradient: Tensor) -> Tensor:
        return gradient

    def _run(self, goal: Goal, faces: Tensor, epsilon: float) -> Tensor:
        low, high = linf_box(faces, epsilon)
        attacked, velocity = faces, torch.zeros_like(faces)
        for _ in range(self.steps):
            attacked = attacked.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(goal(self._seen(attacked)).sum(), attacked)
            gradient = self._smoothed(gradient)
            velocity = self.decay * velocity + gradient / gradient.abs().mean((1, 2), keepdim=True).clamp_min(1e-12)
            attacked = torch.clamp(attacked.detach() + epsilon / self.steps * velocity.sign(), low, high)
        return attacked


@dataclass(frozen=True)
class DIFGSM(MIFGSM):
    """MI-FGSM whose gradient is taken through a random resizing and padding (Xie et al., CVPR 2019).

    Attributes
    ----------
    probability : float
        Of transforming at a step.
    smallest : float
        The faces are shrunk to a size between this fraction and the whole, and put at a random place.
    """

    probability: float = 0.7
    smallest: float = 0.85

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.probability <= 1 or not 0 < self.smallest <= 1:
            raise ValueError(
                f"probability must be in [0, 1] and smallest in (0, 1], got {self.probability} and {self.smallest}"
            )

    def _seen(self, faces: Tensor) -> Tensor:
        if float(torch.rand(())) >= self.probability:
            return faces
        side = faces.shape[-1]
        size = int(torch.randint(round(self.smallest * side), side + 1, ()))
        left, top = (int(torch.randint(0, side - size + 1, ())) for _ in range(2))
        small = F.interpolate(faces.unsqueeze(1), (size, size), mode="bilinear", align_corners=False)
        return F.pad(small, (left, side - size - left, top, side - size - top)).squeeze(1)


@dataclass(frozen=True)
class TIFGSM(MIFGSM):
    """MI-FGSM whose gradient is blurred, which stands for averaging over translations (Dong et al., CVPR 2019).

    Attributes
    ----------
    kernel : int
        Width of the Gaussian kernel, odd. The paper takes 15 on 299 x 299; faces of 112 x 112 want a smaller one.
    sigma : float
        Of the kernel in pixels.
    """

    kernel: int = 7
    sigma: float = 1.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count(self, "kernel")
        check_above_zero(self, "sigma")
        if self.kernel % 2 == 0:
            raise ValueError(f"kernel must be odd, got {self.kernel}")

    def _smoothed(self, gradient: Tensor) -> Tensor:
        kernel = gaussian_kernel(self.kernel, self.sigma).to(gradient)
        return F.conv2d(gradient.unsqueeze(1), kernel[None, None], padding=self.kernel // 2).squeeze(1)


def gaussian_kernel(width: int, sigma: float) -> Tensor:
    """(width, width) Gaussian of sum 1."""
    place = torch.arange(width, dtype=torch.float64) - (width - 1) / 2
    line = torch.exp(-place.square() / (2 * sigma**2))
    kernel = torch.outer(line, line)
    return (kernel / kernel.sum()).float()
