"""Pictures of what a mask keeps: the face as it was, as it is kept, as strangers see it, and every channel."""

from __future__ import annotations

import math
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.runtime.masking import FaceMask

__all__ = ["kept_energy", "masking_sheet"]

_SIDE = 112
_GAP = 4
_GREY = 128


def masking_sheet(mask: FaceMask, face: NDArray[np.uint8], masked: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """One picture.

    Parameters
    ----------
    mask : FaceMask
    face : ndarray of uint8, shape (112, 112)
        As it came.
    masked : ndarray of uint8, shape (112, 112)
        What is masked of it: the same, or purified.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        Above: face, what is masked, what its channels show with the key, and without. Below: the channels as they are
        masked, in the key's order, mid grey being a channel's mean and 3 standard deviations black or white.
    """
    open_channels, channels = mask.open_channels(masked[None]), mask.channels(masked[None])
    above = [face, masked, mask.picture(open_channels)[0], mask.picture(channels)[0]]
    across = math.ceil(4 * _SIDE / (_SIDE // 2 + _GAP))
    size = (_SIDE // 2, _SIDE // 2)
    tiles = [np.asarray(cv2.resize(_as_grey(one), size, interpolation=cv2.INTER_NEAREST)) for one in channels[0]]
    rows = [_row(tiles[start : start + across], _SIDE // 2) for start in range(0, len(tiles), across)]
    parts = [_row(above, _SIDE), *rows]
    width = max(part.shape[1] for part in parts)
    filled = [np.pad(part, ((0, _GAP), (0, width - part.shape[1])), constant_values=_GREY) for part in parts]
    return np.concatenate(filled)


def kept_energy(mask: FaceMask, face: NDArray[np.uint8]) -> float:
    """Share of a face's variance that its kept channels show by themselves, in [0, 1]."""
    kept = mask.picture(mask.open_channels(face[None]))[0].astype(np.float64)
    before = face.astype(np.float64)
    lost = float(np.square(before - before.mean() - (kept - kept.mean())).mean())
    return max(0.0, 1 - lost / max(float(before.var()), 1e-9))


def _as_grey(channel: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.asarray((_GREY + channel * (127 / 3)).clip(0, 255), np.uint8)


def _row(pictures: list[NDArray[Any]], side: int) -> NDArray[np.uint8]:
    gap = np.full((side, _GAP), _GREY, np.uint8)
    parts = [part for picture in pictures for part in (np.asarray(picture, np.uint8), gap)]
    return np.concatenate(parts[:-1], axis=1)
