"""Mixing masked faces: how much of each, and which labels the mix has.

After the adaptive hybrid masking strategy (Wang et al., arXiv 2403.10558), whose text and code were not at hand. Known:
``X = sum_j l_j X_j`` in the frequency domain, the weights absolute values drawn from N(0, 1), normalised, none above
0.65, k of 2 to 6 faces, the loss ``sum_j l_j ArcFace(f(X), y_j)``. Reconstructed: what happens to a weight above 0.65
(it is cut, and the rest is shared out among the others in proportion; for two faces that is 0.65 and 0.35), and that
labels which occur twice in a mix are merged after that, so that one person may have more than 0.65.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["LARGEST_SHARE", "MIXED", "merged", "mixed", "mixing_shares"]

MIXED = (2, 3, 4, 5, 6)
"""How many faces a mix may have."""
LARGEST_SHARE = 0.65


def mixing_shares(noise: Tensor, counts: Tensor, largest: float = LARGEST_SHARE) -> Tensor:
    """Shares of the faces of every mix.

    Parameters
    ----------
    noise : Tensor
        (N, K) drawn from N(0, 1).
    counts : Tensor
        (N,) int64 of 1 to K: the first so many faces are in the mix. A "mix" of one has a share of 1.
    largest : float
        No share of a mix of two or more is above; at least 1/2.

    Returns
    -------
    Tensor
        (N, K) of 0 or more; rows sum to 1.

    Raises
    ------
    ValueError
        If a count or the largest share is out of its range.
    """
    most = noise.shape[1]
    if len(counts) and not 1 <= int(counts.min()) <= int(counts.max()) <= most:
        raise ValueError(f"mixes of {int(counts.min())} to {int(counts.max())} faces were asked for, of 1 to {most}")
    if not 0.5 <= largest <= 1:
        raise ValueError(f"the largest share of a mix must be in [0.5, 1], got {largest}")
    inside = noise.new_ones(noise.shape).cumsum(1) <= counts.unsqueeze(1)
    raw = noise.abs().clamp_min(1e-6) * inside
    shares = raw / raw.sum(1, keepdim=True)
    # Of shares that sum to 1 only one can be above a half, so cutting it once is enough.
    top, place = shares.max(1, keepdim=True)
    over = (top > largest) & (counts.unsqueeze(1) > 1)
    rest = shares * ((1 - largest) / (1 - top).clamp_min(1e-12))
    return rest.scatter(1, place, largest).where(over, shares)


def merged(labels: Tensor, shares: Tensor) -> Tensor:
    """Shares of labels: what a label has at several places goes to the first of them; one below zero has nothing.

    Parameters
    ----------
    labels : Tensor
        (N, K) int64; negative ones are of faces that nobody has named.
    shares : Tensor
        (N, K).

    Returns
    -------
    Tensor
        (N, K).
    """
    same = labels.unsqueeze(2) == labels.unsqueeze(1)  # (N, K, K)
    together = (same * shares.unsqueeze(1)).sum(2)
    earlier = same.tril(-1).any(2)
    return together.masked_fill(earlier | (labels < 0), 0)


def mixed(values: Tensor, partners: Tensor, shares: Tensor) -> Tensor:
    """``X_n = sum_j shares[n, j] values[partners[n, j]]``.

    Parameters
    ----------
    values : Tensor
        (N, ...), such as masked channels of a batch.
    partners : Tensor
        (M, K) int64 rows of `values`.
    shares : Tensor
        (M, K).

    Returns
    -------
    Tensor
        (M, ...).
    """
    weights = shares.new_zeros(len(partners), len(values)).scatter_add(1, partners, shares)
    return (weights @ values.flatten(1)).reshape(len(partners), *values.shape[1:])
