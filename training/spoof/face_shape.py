"""A generic face in three dimensions, an ellipsoid with a nose, posed by five landmarks: its depth and angles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["LANDMARKS", "FacePose", "face_surface", "pose_of"]

# Units are distances between the eyes; x to the right of the picture, y down, z towards the viewer, origin between the
# eyes. Proportions are those of the ArcFace template; depths are a choice: eyes and mouth corners lie on the ellipsoid.
_CENTRE = np.array([0.0, 0.35, -1.05])
_AXES = np.array([1.12, 1.62, 1.15])
_NOSE_TIP, _NOSE_HEIGHT, _NOSE_WIDTH = 0.57, 0.42, 0.17


def _on_ellipsoid(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """Depth of the ellipsoid's front above (x, y); NaN outside its outline."""
    inside = 1 - ((x - _CENTRE[0]) / _AXES[0]) ** 2 - ((y - _CENTRE[1]) / _AXES[1]) ** 2
    return _CENTRE[2] + _AXES[2] * np.sqrt(np.where(inside >= 0, inside, np.nan))


def _nose(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the nose stands out: a ridge that rises from between the eyes to its tip, and falls off below."""
    along = np.where(y < _NOSE_TIP, y / _NOSE_TIP, 1 - (y - _NOSE_TIP) / 0.2)
    return _NOSE_HEIGHT * np.clip(along, 0, 1) * np.exp(-((x / _NOSE_WIDTH) ** 2))


@cache
def face_surface() -> NDArray[np.float64]:
    """(M, 3) points of the face's front, dense enough for maps of 56 cells a side."""
    x, y = np.meshgrid(np.linspace(-1.12, 1.12, 96), np.linspace(-1.27, 1.97, 136))
    z = _on_ellipsoid(x, y) + _nose(x, y)
    seen = ~np.isnan(z)
    return np.stack([x[seen], y[seen], z[seen]], 1)


def _landmarks() -> NDArray[np.float64]:
    x, y = np.array([-0.5, 0.5, 0.0, -0.415, 0.415]), np.array([0.0, 0.0, _NOSE_TIP, 1.155, 1.155])
    return np.stack([x, y, _on_ellipsoid(x, y) + _nose(x, y)], 1)


LANDMARKS = _landmarks()  # (5, 3): image-left eye, image-right eye, nose, mouth corners


@dataclass(frozen=True, eq=False)
class FacePose:
    """Where the generic face is in a picture, seen from afar (weak perspective).

    Attributes
    ----------
    scale : float
        Pixels for a distance between the eyes.
    rotation : ndarray
        (3, 3); rows are the picture's x, y and the direction to the viewer, in the face's coordinates.
    shift : ndarray
        (2,) pixels, of the point between the eyes.
    """

    scale: float
    rotation: NDArray[np.float64]
    shift: NDArray[np.float64]

    @property
    def angles(self) -> tuple[float, float, float]:
        """Degrees of yaw (above 0: to the picture's right), pitch (above 0: down) and roll (above 0: clockwise)."""
        forward = self.rotation[:, 2]  # of the nose, in the picture's coordinates
        yaw = math.atan2(forward[0], forward[2])
        pitch = math.asin(float(np.clip(forward[1], -1, 1)))
        across = self.rotation[:2, 0]  # of the line between the eyes
        return math.degrees(yaw), math.degrees(pitch), math.degrees(math.atan2(across[1], across[0]))

    def project(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """(M, 2) pixels of points (M, 3) of the face."""
        return self.scale * points @ self.rotation[:2].T + self.shift

    def depth(self, side: int, cells: int, oversampling: int = 4) -> NDArray[np.float32]:
        """Depth map of the face in a square picture.

        Parameters
        ----------
        side : int
            Of the picture in pixels.
        cells : int
            Of the map.
        oversampling : int
            Cells a side that one of the map averages.

        Returns
        -------
        ndarray
            (cells, cells) float32 in [0, 1]: 0 where there is no face and at the ellipsoid's middle plane, 1 a nose's
            tip that points to the viewer.
        """
        surface, fine = face_surface(), cells * oversampling
        place = np.floor(self.project(surface) * (fine / side)).astype(int)
        height = (surface - _CENTRE) @ self.rotation[2] / (_AXES[2] + _NOSE_HEIGHT)
        seen = ((place >= 0) & (place < fine)).all(1)
        depth = np.zeros(fine * fine, np.float32)
        np.maximum.at(depth, place[seen, 1] * fine + place[seen, 0], height[seen].astype(np.float32))
        pooled: NDArray[np.float32] = depth.reshape(cells, oversampling, cells, oversampling).mean((1, 3))
        return np.clip(pooled, 0, 1)


def pose_of(points: NDArray[np.floating]) -> FacePose:
    """The pose that brings the generic face's landmarks nearest to five points.

    The affine least-squares solution of weak perspective (DeMenthon and Davis, IJCV 1995, its first step), whose two
    rows are then made orthogonal and of equal length.

    Parameters
    ----------
    points : ndarray
        (5, 2) pixels: image-left eye, image-right eye, nose, left and right mouth corner.

    Raises
    ------
    ValueError
        If these are not five finite points, or all one.
    """
    points = np.asarray(points, np.float64)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise ValueError(f"a pose needs five finite points (5, 2), got {points.shape}")
    solution, *_ = np.linalg.lstsq(np.concatenate([LANDMARKS, np.ones((5, 1))], 1), points, rcond=None)
    left, lengths, right = np.linalg.svd(solution[:3].T, full_matrices=False)
    if lengths[0] < 1e-6:
        raise ValueError("a pose needs five points that are apart, got one place five times")
    rows = left @ right
    rotation = np.concatenate([rows, np.cross(rows[0], rows[1])[None]])
    scale = float(lengths.mean())
    shift = points.mean(0) - scale * LANDMARKS.mean(0) @ rows.T
    return FacePose(scale, rotation, shift)
