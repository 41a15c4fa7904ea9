"""The camera at the end: lens, exposure, sensor, and the file that it writes."""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.training.spoof.light import Picture, displayed

__all__ = ["capture"]


def capture(
    rng: np.random.Generator, light: Picture, side: int, *, exposure: float = 1.0, noise: float = 1.0
) -> NDArray[np.uint8]:
    """A picture of a scene, as 8-bit RGB.

    Parameters
    ----------
    rng : Generator
    light : ndarray
        (S, S, 3) linear light of the scene; S is a multiple of `side`, so that a pixel averages some of it.
    side : int
        Of the picture.
    exposure : float
        1 shows light of 1 white.
    noise : float
        Of the sensor, 1 is a door's camera in a lit room.

    Returns
    -------
    ndarray
        (side, side, 3) uint8 RGB, after a JPEG.
    """
    blurred = cv2.GaussianBlur(light, (0, 0), rng.uniform(0.3, 1.1) * len(light) / side)
    if rng.uniform() < 0.25:
        blurred = _moved(rng, blurred)
    small = cv2.resize(blurred, (side, side), interpolation=cv2.INTER_AREA)
    balance = np.array([rng.uniform(0.93, 1.07), 1.0, rng.uniform(0.93, 1.07)], np.float32)
    small = small * balance * exposure
    # Photons are counted, and reading adds to it.
    deviation = noise * np.sqrt(2e-4 * rng.uniform(0.3, 1.5) * small.clip(0) + 2e-6)
    small = small + deviation * rng.standard_normal(small.shape, np.float32)
    pixels = (255 * displayed(small) + 0.5).astype(np.uint8)
    quality = int(rng.integers(70, 98))
    _, data = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    result: NDArray[np.uint8] = cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1]
    return result


def _moved(rng: np.random.Generator, light: Picture) -> Picture:
    """Blur along a line of up to 7 pixels: somebody moved."""
    reach, angle = int(rng.integers(1, 4)), rng.uniform(0, math.pi)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    x, y = round(reach * math.cos(angle)), round(reach * math.sin(angle))
    cv2.line(kernel, (reach - x, reach - y), (reach + x, reach + y), 1.0)
    return cv2.filter2D(light, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REFLECT_101)
