"""A flat or bent sheet before the camera: which point of it every pixel sees."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.training.spoof.light import Picture

__all__ = ["Sheet", "hold", "sample"]


@dataclass(frozen=True, eq=False)
class Sheet:
    """What a camera sees of a sheet.

    Attributes
    ----------
    u, v : ndarray
        (side, side) float32: the place on the sheet, in distances between the pictured eyes from the point between
        them, that each pixel sees.
    facing : ndarray
        (side, side) float32 in [0, 1], cosine between the sheet's normal there and the viewer.
    pixels : float
        Of the camera's picture for one distance between the eyes, about the face.
    to_picture : ndarray
        (3, 3) from (u, v) of the unbent sheet to the camera's picture.
    """

    u: Picture
    v: Picture
    facing: Picture
    pixels: float
    to_picture: NDArray[np.float64]

    def rectangle(self, left: float, top: float, right: float, bottom: float, rounded: float = 0.0) -> Picture:
        """(side, side) in [0, 1]: 1 inside a rectangle of the sheet, with an edge of about a pixel."""
        x = np.abs(self.u - (left + right) / 2) - (right - left) / 2 + rounded
        y = np.abs(self.v - (top + bottom) / 2) - (bottom - top) / 2 + rounded
        outside = np.sqrt(np.square(x.clip(0)) + np.square(y.clip(0))) + np.minimum(np.maximum(x, y), 0) - rounded
        inside: Picture = np.clip(0.5 - outside * self.pixels, 0, 1)
        return inside


def hold(
    rng: np.random.Generator, side: int, *, pixels: float, centre: NDArray[np.floating], tilt: float, bend: float = 0.0
) -> Sheet:
    """Hold a sheet up by hand: turned, tilted, and bent like paper.

    Parameters
    ----------
    rng : Generator
    side : int
        Of the camera's picture.
    pixels : float
        For one distance between the eyes, unturned.
    centre : ndarray
        (2,) where the point between the eyes comes to lie.
    tilt : float
        Deviation of the two angles out of the picture's plane, degrees; within it, half as much.
    bend : float
        Largest curvature of the cylinder that the sheet lies on, in 1 / distance between the eyes.

    Returns
    -------
    Sheet
    """
    yaw, pitch, roll = (
        math.radians(value) for value in rng.normal(0, [tilt, tilt, tilt / 2]).clip(-2 * tilt, 2 * tilt)
    )
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    cr, sr = math.cos(roll), math.sin(roll)
    turn = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]]) @ np.array(
        [[cy, 0, sy], [sp * sy, cp, -sp * cy], [-cp * sy, sp, cp * cy]]
    )
    distance = rng.uniform(7.0, 16.0)  # of the camera, in distances between the eyes
    # Columns: the sheet's axes and its origin in the camera's coordinates; depth grows away from the camera.
    pose = np.stack([turn[:, 0], turn[:, 1], np.array([0, 0, distance])], 1)
    lens = np.array([[pixels * distance, 0, centre[0]], [0, pixels * distance, centre[1]], [0, 0, 1]])
    to_picture = lens @ pose
    back = np.linalg.inv(to_picture)
    y, x = np.mgrid[:side, :side].astype(np.float32) + 0.5
    w = back[2, 0] * x + back[2, 1] * y + back[2, 2]
    u, v = (back[0, 0] * x + back[0, 1] * y + back[0, 2]) / w, (back[1, 0] * x + back[1, 1] * y + back[1, 2]) / w
    facing = np.full((side, side), abs(turn[2, 2]), np.float32)
    curvature = bend * rng.uniform(0.3, 1.0)
    if curvature > 0:
        # On a cylinder of radius R what is seen at s lies at R asin(s / R) along the paper.
        angle = rng.choice([0.0, math.pi / 2]) + rng.normal(0, 0.15)
        c, s = math.cos(angle), math.sin(angle)
        along = np.clip((c * u + s * v) * curvature, -0.95, 0.95)
        extra = np.arcsin(along) / curvature - along / curvature
        u, v = u + c * extra, v + s * extra
        facing = facing * np.sqrt(1 - np.square(along))
    return Sheet(u.astype(np.float32), v.astype(np.float32), facing.astype(np.float32), pixels, to_picture)


def sample(light: Picture, u: Picture, v: Picture, origin: NDArray[np.floating], unit: float) -> Picture:
    """What lies at (u, v) in a picture whose point between the eyes is `origin`, `unit` pixels for one of (u, v)."""
    x, y = np.float32(origin[0]) + np.float32(unit) * u, np.float32(origin[1]) + np.float32(unit) * v
    return cv2.remap(light, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
