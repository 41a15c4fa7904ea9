"""Symmetric int8 with a scale for every row, as bases and weights are stored."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["int8_rows"]


def int8_rows(values: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Values as ``scale[i] * q[i]`` with q in [-127, 127] and scale[i] = max |values[i]| / 127.

    Parameters
    ----------
    values : ndarray of float32
        (N, ...); a row is everything below the first axis. A row of zeros has the scale 1.

    Returns
    -------
    q, scale : ndarray
        int8 of the same shape, and float32 (N, 1, ...) that broadcasts to it.
    """
    largest = np.abs(values).reshape(len(values), -1).max(1)
    scale = np.where(largest > 0, largest / 127, 1).astype(np.float32).reshape(-1, *[1] * (values.ndim - 1))
    return np.rint(values / scale).astype(np.int8), scale
