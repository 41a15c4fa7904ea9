"""The block DCT of an upsampled face as one small convolution, without the upsampled face.

The explicit route, that of PPFR-FD (Wang et al., AAAI 2022) as far as it is known: bilinear upsampling by 8 with half-
pixel centres, then the orthonormal DCT-II of every 8x8 block, one channel a frequency. Both are linear, and a block of
the upsampled face depends on few pixels of the face, so the route equals a convolution: 3x3 with stride 1 at an
upsampling by 8. It is separable; along one axis its rows are ``A = D U`` with the DCT matrix D (8, 8) and the
interpolation U (8, w) of a block's samples from its w pixels.

A thing to know: A has rank w. At an upsampling by 8, w is 3, and of the eight frequencies of an axis one is always zero
(the fourth) and the others are multiples of three filters: a mean, a first and a second difference. So of the 64
channels 15 are empty and nine are different. At 56, 28 and 14 positions a side 16, 36 and 64 are independent.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["BLOCK", "FREQUENCIES", "POSITIONS", "block_inverse", "block_kernels", "block_margin", "block_stride"]

BLOCK = 8
FREQUENCIES = BLOCK * BLOCK
POSITIONS = (14, 28, 56, 112)
"""Blocks a side of a 112x112 face, for an upsampling by 1, 2, 4, 8."""


def block_stride(upsampling: int) -> int:
    """Pixels of the face from one block to the next.

    Raises
    ------
    ValueError
        If the upsampling is none of 1, 2, 4, 8.
    """
    if upsampling not in (1, 2, 4, 8):
        raise ValueError(f"faces can be upsampled by 1, 2, 4 or 8 before the block DCT, not by {upsampling}")
    return BLOCK // upsampling


def block_margin(upsampling: int) -> int:
    """Pixels that a block needs beyond its own on each side; at the border they repeat the last one."""
    block_stride(upsampling)
    return int(upsampling > 1)


def _dct_matrix() -> Tensor:
    """(8, 8) float64 ``D[p, u] = c(p) cos(pi (2u + 1) p / 16)``, orthonormal."""
    place = torch.arange(BLOCK, dtype=torch.float64)
    rows = torch.cos(math.pi / BLOCK * (place + 0.5) * place[:, None]) * math.sqrt(2 / BLOCK)
    rows[0] /= math.sqrt(2)
    return rows


def _upsampling_matrix(upsampling: int) -> Tensor:
    """(8, w) float64: a block's samples along an axis from its pixels and the margins'."""
    stride, margin = block_stride(upsampling), block_margin(upsampling)
    width = stride + 2 * margin
    # Where a sample lies among the pixels, whose centres are at whole numbers from 0, the first of the margin.
    place = (torch.arange(BLOCK, dtype=torch.float64) + 0.5) / upsampling - 0.5 + margin
    return (1 - (place[:, None] - torch.arange(width, dtype=torch.float64)).abs()).clamp_min(0)


def block_kernels(upsampling: int) -> Tensor:
    """Kernels of the convolution that gives every block's coefficients.

    Parameters
    ----------
    upsampling : int
        1, 2, 4 or 8.

    Returns
    -------
    Tensor
        (64, 1, w, w) float64; channel 8 p + q has vertical frequency p and horizontal q. The convolution has stride
        `block_stride`, on faces whose border is repeated by `block_margin`.

    Raises
    ------
    ValueError
        For another upsampling.
    """
    axis = _dct_matrix() @ _upsampling_matrix(upsampling)
    return torch.einsum("pi,qj->pqij", axis, axis).reshape(FREQUENCIES, 1, axis.shape[1], axis.shape[1])


def block_inverse(upsampling: int) -> Tensor:
    """Kernels of the transposed convolution that undoes `block_kernels`, all 64 channels given.

    Returns
    -------
    Tensor
        (64, 1, s, s) float64 for the stride s: a block's own pixels are the least-squares ones for its coefficients,
        and the exact ones, for A has full column rank.
    """
    margin = block_margin(upsampling)
    axis = torch.linalg.pinv(_dct_matrix() @ _upsampling_matrix(upsampling))  # (w, 8)
    own = axis[margin : len(axis) - margin]
    return torch.einsum("ip,jq->pqij", own, own).reshape(FREQUENCIES, 1, len(own), len(own))
