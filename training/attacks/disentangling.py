"""Many mixes of one face give the face away: their mean is the face, as far as it is in each, and a mean of others.

The simplest of the attacks on InstaHide-like mixing, which has been broken with less (Carlini et al., IEEE S&P 2021).
In a mix of k faces whose shares are drawn alike, a face has a share of 1 / k on average, cut ones included.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from immunecam.models.masking import mixing_shares

__all__ = ["disentangled", "mixed_with_others"]


def mixed_with_others(
    channels: Tensor, others: Tensor, k: int | Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """One encoding of each face: mixed with k - 1 others, in shares as in training.

    Parameters
    ----------
    channels : Tensor
        (N, C, H, W).
    others : Tensor
        (R, C, H, W), drawn from with replacement.
    k : int or Tensor
        Faces in a mix, or (N,) int64 those in each; 1 leaves them alone.
    generator : torch.Generator, optional

    Returns
    -------
    Tensor
        (N, C, H, W).
    """
    count = len(channels)
    counts = k if isinstance(k, Tensor) else torch.full((count,), k)
    most = int(counts.max()) if count else 1
    shares = mixing_shares(torch.randn(count, most, generator=generator), counts).to(channels)
    mix = channels * shares[:, 0].reshape(-1, 1, 1, 1)
    for place in range(1, most):
        drawn = others[torch.randint(len(others), (count,), generator=generator)]
        mix = mix + drawn * shares[:, place].reshape(-1, 1, 1, 1)
    return mix


def disentangled(encodings: Iterable[Tensor], k: int, mean: Tensor) -> Tensor:
    """An estimate of faces from several encodings of each, ``(E[X] - (1 - 1/k) mean) k``; unbiased.

    Parameters
    ----------
    encodings : iterable of Tensor
        (N, C, H, W) each, of the same faces mixed with other ones.
    k : int
        Faces in a mix.
    mean : Tensor
        (C, H, W), of masked faces in general.

    Raises
    ------
    ValueError
        If there are none.
    """
    total, count = None, 0
    for encoding in encodings:
        total, count = encoding if total is None else total + encoding, count + 1
    if total is None:
        raise ValueError("faces are disentangled from their encodings, got none")
    return (total / count - (1 - 1 / k) * mean) * k
