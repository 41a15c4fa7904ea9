"""What a key does to a masked face's channels: mixes them in pairs and puts them in another order, as one matrix."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from immunecam.mask_key import MaskKey

__all__ = ["key_matrix", "mask_matrix"]


def mask_matrix(count: int, pairing: Sequence[int], order: Sequence[int]) -> NDArray[np.float64]:
    """The matrix of a pairing and an order.

    Parameters
    ----------
    count : int
        Channels, C.
    pairing : sequence of int
        A permutation of the channels, two neighbours of which become their sum and difference over the square root of
        two; of an odd number the last is left alone. Empty: nothing is mixed.
    order : sequence of int
        A permutation: place i of the result holds channel order[i]. Empty: as they are.

    Returns
    -------
    ndarray
        (C, C) float64; its transpose undoes it.
    """
    matrix = np.eye(count)
    half = math.sqrt(0.5)
    for first, second in zip(pairing[::2], pairing[1::2], strict=False):
        matrix[first, first], matrix[first, second] = half, half
        matrix[second, first], matrix[second, second] = half, -half
    return matrix[list(order)] if order else matrix


def key_matrix(key: MaskKey, count: int) -> NDArray[np.float64]:
    """The matrix that follows from a key; the same in training and on a device."""
    return mask_matrix(count, key.permutation(count, "pairs"), key.permutation(count, "order"))
