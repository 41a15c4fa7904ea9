"""The square crop that the landmark model looks at, the same in training and on the device."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["CROP_SIDE", "box_from_landmarks", "crop_square", "points_from_crop"]

CROP_SIDE = 48


def crop_square(grey: NDArray[np.uint8], centre: NDArray[np.floating], side: float) -> NDArray[np.uint8]:
    """Cut an upright square out of a grey picture, at (48, 48); beyond the border the edge repeats.

    Parameters
    ----------
    grey : ndarray
        (H, W) uint8.
    centre : ndarray
        (2,) x and y in pixels.
    side : float
        In pixels. A square more than twice the output is shrunk by area first, so that nothing aliases.
    """
    half = side / 2
    left, top = int(np.floor(centre[0] - half)), int(np.floor(centre[1] - half))
    length = max(2, int(np.ceil(side)) + 1)
    if side > 2 * CROP_SIDE:
        patch = _window(grey, left, top, length)
        return np.asarray(cv2.resize(patch, (CROP_SIDE, CROP_SIDE), interpolation=cv2.INTER_AREA), np.uint8)
    scale = CROP_SIDE / side
    matrix = np.array(
        [
            [scale, 0, (0.5 - (centre[0] - half)) * scale - 0.5],
            [0, scale, (0.5 - (centre[1] - half)) * scale - 0.5],
        ]
    )
    crop = cv2.warpAffine(grey, matrix, (CROP_SIDE, CROP_SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, np.uint8)


def points_from_crop(points: NDArray[np.floating], centre: NDArray[np.floating], side: float) -> NDArray[np.float32]:
    """Points in crop units, (-1, -1) top left to (1, 1) bottom right, to pixels of the picture; any (..., 2)."""
    return (np.asarray(centre) + np.asarray(points) * (side / 2)).astype(np.float32)


def box_from_landmarks(landmarks: NDArray[np.floating]) -> tuple[NDArray[np.float64], float]:
    """Centre (2,) and side of the square that frames five points, as the landmark model likes it.

    The length is the larger of the distances between the eyes and from eyes to mouth, so a turned head keeps its size.
    """
    points = np.asarray(landmarks, np.float64)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    length = max(float(np.hypot(*(points[1] - points[0]))), float(np.hypot(*(mouth - eyes))), 1e-3)
    return (eyes + mouth) / 2, 2.9 * length


def _window(grey: NDArray[np.uint8], left: int, top: int, length: int) -> NDArray[np.uint8]:
    height, width = grey.shape
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + length, width), min(top + length, height)
    if x0 >= x1 or y0 >= y1:
        return np.zeros((length, length), np.uint8)
    inside = grey[y0:y1, x0:x1]
    padding = (y0 - top, top + length - y1, x0 - left, left + length - x1)
    if any(padding):
        inside = np.asarray(cv2.copyMakeBorder(inside, *padding, cv2.BORDER_REPLICATE), np.uint8)
    return inside
