"""How alike two pictures look: SSIM and PSNR, as functions that a network can be trained by."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["psnr", "ssim"]

_WINDOW, _SIGMA = 11, 1.5
_K1, _K2 = 0.01, 0.03
_RANGE = 2.0  # from -1 to 1


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Mean structural similarity (Wang et al., TIP 2004): Gaussian window of 11 with sigma 1.5, K 0.01 and 0.03.

    Parameters
    ----------
    one, other : Tensor
        (N, C, H, W) in [-1, 1], at least 11 pixels a side.

    Returns
    -------
    Tensor
        (N,) in [-1, 1], the mean over planes and all places where the window lies inside.
    """
    # Counted from black, as grey levels are: the index compares means, and is another one where these can be negative.
    one, other = one + 1, other + 1
    planes = one.shape[1]
    place = torch.arange(_WINDOW, dtype=one.dtype, device=one.device) - _WINDOW // 2
    weights = torch.exp(-place.square() / (2 * _SIGMA**2))
    weights = weights / weights.sum()

    def blurred(x: Tensor) -> Tensor:
        down = F.conv2d(x, weights.reshape(1, 1, -1, 1).expand(planes, 1, -1, 1), groups=planes)
        return F.conv2d(down, weights.reshape(1, 1, 1, -1).expand(planes, 1, 1, -1), groups=planes)

    mean, other_mean = blurred(one), blurred(other)
    variance = blurred(one.square()) - mean.square()
    other_variance = blurred(other.square()) - other_mean.square()
    together = blurred(one * other) - mean * other_mean
    c1, c2 = (_K1 * _RANGE) ** 2, (_K2 * _RANGE) ** 2
    found = ((2 * mean * other_mean + c1) * (2 * together + c2)) / (
        (mean.square() + other_mean.square() + c1) * (variance + other_variance + c2)
    )
    return found.mean((1, 2, 3))


def psnr(one: Tensor, other: Tensor) -> Tensor:
    """(N,) peak signal-to-noise ratios in dB of pictures in [-1, 1], ``10 log10(4 / MSE)``; at most 100."""
    error = (one - other).square().flatten(1).mean(1)
    return 10 * torch.log10(_RANGE**2 / error.clamp_min(_RANGE**2 * 1e-10))
