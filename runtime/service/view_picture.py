"""The pictures of the live page: small enough for a phone, and what purification took away made visible."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["GAIN", "noise_picture", "view_jpeg"]

GAIN = 10
"""How many times stronger than it was what purification took away is shown."""

_LONGEST = 960
_QUALITY = 85


def noise_picture(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """What purification took away, ``128 + GAIN * (before - after)`` of the luminance, cut at black and white.

    Parameters
    ----------
    before, after : ndarray of uint8, shape (H, W, 3)
        BGR.

    Returns
    -------
    ndarray of uint8, shape (H, W)
        Mid-grey where nothing changed.
    """
    grey = [cv2.cvtColor(one, cv2.COLOR_BGR2GRAY) for one in (before, after)]
    return np.asarray(cv2.addWeighted(grey[0], GAIN, grey[1], -GAIN, 128), np.uint8)


def view_jpeg(image: NDArray[np.uint8]) -> bytes:
    """A picture, (H, W, 3) BGR or (H, W) grey, as a JPEG of 960 pixels at most on its longer side."""
    height, width = image.shape[:2]
    scale = _LONGEST / max(height, width)
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    return bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1])
