"""Light: pictures as amounts of light, noise fields to compose it of, and CelebA-Spoof's four illuminations."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["GAMMA", "Illumination", "Picture", "blob", "displayed", "field", "illuminate", "linear", "luminance"]

Picture = NDArray[np.float32]

GAMMA = 2.2  # of displays and pictures, instead of sRGB's piecewise curve
_LINEAR = ((np.arange(256) / 255) ** GAMMA).astype(np.float32)


def linear(pixels: NDArray[np.uint8]) -> Picture:
    """8-bit levels to amounts of light in [0, 1]."""
    return _LINEAR[pixels]


def displayed(light: Picture) -> Picture:
    """Amounts of light to levels in [0, 1], clipped."""
    return cv2.pow(np.clip(light, 0, 1), 1 / GAMMA)


def luminance(light: Picture) -> Picture:
    """(H, W) of (H, W, 3) RGB light (ITU-R BT.709)."""
    return light @ np.array([0.2126, 0.7152, 0.0722], np.float32)


def field(rng: np.random.Generator, side: int, cells: int, channels: int = 1) -> Picture:
    """(side, side, channels) smooth noise of mean about 0 and deviation about 1; more cells, finer noise."""
    coarse = rng.standard_normal((cells + 2, cells + 2, channels), np.float32)
    smooth = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return smooth.reshape(side, side, channels)


def blob(side: int, centre: NDArray[np.floating], axes: tuple[float, float], angle: float, edge: float) -> Picture:
    """(side, side) an ellipse, 1 inside and 0 outside, whose edge is as soft as this fraction of its radius."""
    y, x = np.mgrid[:side, :side].astype(np.float32)
    x, y = x - np.float32(centre[0]), y - np.float32(centre[1])
    c, s = math.cos(angle), math.sin(angle)
    radius = np.sqrt(((c * x + s * y) / axes[0]) ** 2 + ((c * y - s * x) / axes[1]) ** 2)
    result: Picture = np.clip((1 - radius) / max(edge, 1e-3) + 0.5, 0, 1).astype(np.float32)
    return result


@dataclass(frozen=True, eq=False)
class Illumination:
    """What falls on a scene, as multiples of the light that shows a white sheet white.

    Attributes
    ----------
    front : ndarray
        (H, W, 1) on what is held before the camera.
    behind : ndarray
        (H, W, 1) on what is behind it.
    veil : float
        Of the light behind that the lens scatters over everything.
    exposure : float
        Of the camera.
    noise : float
        Of the sensor, relative to normal light: a dark scene is amplified.
    """

    front: Picture
    behind: Picture
    veil: float = 0.0
    exposure: float = 1.0
    noise: float = 1.0


def illuminate(rng: np.random.Generator, kind: int, side: int) -> Illumination:
    """Draw one of CelebA-Spoof's illuminations.

    Parameters
    ----------
    rng : Generator
    kind : int
        1 normal, 2 strong (a lamp from one side, with blown highlights), 3 back, 4 dark.
    side : int
        Of the picture.

    Raises
    ------
    ValueError
        For another kind.
    """
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j].astype(np.float32)
    angle = rng.uniform(0, 2 * math.pi)
    slope = (math.cos(angle) * x + math.sin(angle) * y)[..., None]
    even = 1 + rng.uniform(0.0, 0.2) * slope
    if kind == 1:
        return Illumination(even, even * rng.uniform(0.6, 1.1), exposure=rng.uniform(0.9, 1.1))
    if kind == 2:
        lit = 0.35 + rng.uniform(1.6, 2.6) / (1 + np.exp(-rng.uniform(2, 4) * (slope + rng.uniform(-0.2, 0.3))))
        return Illumination(lit, 0.8 * lit, exposure=rng.uniform(0.8, 1.0), noise=0.8)
    if kind == 3:
        return Illumination(
            even * rng.uniform(0.25, 0.4),
            even * rng.uniform(2.5, 5.0),
            veil=rng.uniform(0.005, 0.02),
            exposure=rng.uniform(0.9, 1.2),
            noise=1.3,
        )
    if kind == 4:
        dim = rng.uniform(0.06, 0.15)
        return Illumination(even * dim, even * dim * rng.uniform(0.5, 1.0), exposure=rng.uniform(1.5, 2.5), noise=2.5)
    raise ValueError(f"illumination must be 1 (normal), 2 (strong), 3 (back) or 4 (dark), got {kind}")
