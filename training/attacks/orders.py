"""Orders that nobody told: every channel of a masked face is put where it most likely belongs.

A channel's mean over faces is no noise but something of a face, and its covariance says how far faces go from it. So an
attacker who masks faces of his own, in any one order, knows the normal distribution of each place, takes each channel
of a face in an unknown order for a draw of one of them, and assigns all so that together they are likeliest::

    cost[i, c] = (x_i - m_c)' S_c^-1 (x_i - m_c) + log det S_c

This project's; others may find more.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["OrderFinder"]

_SIDE = 14  # finer positions are averaged: a covariance of all of them would be too large
_RIDGE = 0.3  # added to a covariance's diagonal, in parts of its mean, for there are few faces to so many numbers


class OrderFinder:
    """Channels in any order to channels in the one that it was fitted to.

    Parameters
    ----------
    channels : Tensor
        (N, C, H, W) of the attacker's own faces, all in one order.

    Raises
    ------
    ValueError
        If there are fewer than two faces.
    """

    def __init__(self, channels: Tensor) -> None:
        if len(channels) < 2:
            raise ValueError(f"what channels look like is told from two faces or more, got {len(channels)}")
        seen = _coarse(channels)
        self._mean = seen.mean(1, keepdim=True)  # (C, 1, P)
        off = seen - self._mean
        covariance = off.transpose(1, 2) @ off / len(channels)  # (C, P, P)
        own = covariance.diagonal(dim1=1, dim2=2)
        own += _RIDGE * own.mean(1, keepdim=True) + 1e-9
        self._root = torch.linalg.cholesky(covariance)

    def __call__(self, channels: Tensor) -> Tensor:
        """(N, C, H, W) of faces, each put into order by itself."""
        from scipy.optimize import linear_sum_assignment

        seen = _coarse(channels).flatten(0, 1)  # (C * N, P)
        volume = 2 * self._root.diagonal(dim1=1, dim2=2).log().sum(1)
        costs = []
        for mean, root, own in zip(self._mean, self._root, volume, strict=True):
            off = torch.linalg.solve_triangular(root, (seen - mean).T, upper=False)
            costs.append(off.square().sum(0) + own)
        cost = torch.stack(costs).reshape(len(costs), -1, len(channels))  # (place, channel, face)
        found = [linear_sum_assignment(one)[1] for one in cost.permute(2, 0, 1).cpu().numpy()]
        return torch.stack([face[torch.from_numpy(order)] for face, order in zip(channels, found, strict=True)])


def _coarse(channels: Tensor) -> Tensor:
    """(C, N, P) float64, P being at most 14 x 14."""
    if channels.shape[-1] > _SIDE:
        channels = F.adaptive_avg_pool2d(channels, _SIDE)
    return channels.double().flatten(2).transpose(0, 1)
