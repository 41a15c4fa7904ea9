"""The square that a liveness network looks at: wider than what a recogniser sees, upright, and in colour."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime.faces.align import check_frame, similarity
from immunecam.runtime.faces.face import Face
from immunecam.runtime.faces.paste import paste
from immunecam.runtime.liveness_record import LivenessCrop

__all__ = ["liveness_crops", "liveness_matrix", "with_purified"]

# The eyes' distance to the mouth's middle, in distances between the eyes, of a face seen from the front.
_EYES_TO_MOUTH = 1.15
# What is beyond the picture, as the training sets have it: synthetic faces mirror, CelebA-Spoof is black there.
_BORDERS = {"landmarks": cv2.BORDER_REFLECT_101, "box": cv2.BORDER_CONSTANT}
_ALIAS = 0.4  # deviation of the blur before a picture is made smaller, in pixels of the crop


def liveness_matrix(face: Face, crop: LivenessCrop, side: int) -> NDArray[np.float64]:
    """From pixels of the frame to pixels of the crop.

    Parameters
    ----------
    face : Face
    crop : LivenessCrop
        Which square.
    side : int
        Of the crop in pixels.

    Returns
    -------
    ndarray
        (2, 3) float64: a scale and a shift, no turn.

    Raises
    ------
    InputError
        If the face has no size.
    """
    if crop.around == "landmarks":
        points = np.asarray(face.landmarks, np.float64)
        eyes, mouth = points[:2].mean(0), points[3:].mean(0)
        across, below = np.linalg.norm(points[1] - points[0]), np.linalg.norm(mouth - eyes)
        unit, centre = max(float(across), float(below) / _EYES_TO_MOUTH), eyes
    else:
        left, top, width, height = (float(value) for value in face.box)
        unit, centre = max(width, height), np.array([left + width / 2, top + height / 2])
    if not (np.isfinite(centre).all() and 1e-3 < unit < np.inf):
        raise InputError("the face has no size, so it has no picture to judge: find the face again")
    scale = side / (crop.size * unit)
    x, y = side / 2 - scale * (centre + np.array([0, crop.down * unit]))
    return np.array([[scale, 0, x], [0, scale, y]])


def liveness_crops(frame: NDArray[np.uint8], faces: Sequence[Face], crop: LivenessCrop, side: int) -> NDArray[np.uint8]:
    """Cut out of a frame what a liveness network looks at.

    Parameters
    ----------
    frame : ndarray
        (H, W, 3) uint8 BGR.
    faces : sequence of Face
        N, may be none.
    crop : LivenessCrop
        Which square of each.
    side : int
        Pixels.

    Returns
    -------
    ndarray
        (N, side, side, 3) uint8 BGR.

    Raises
    ------
    InputError
        If the frame or a face cannot be used.
    """
    check_frame(frame)
    crops = np.empty((len(faces), side, side, 3), np.uint8)
    for number, face in enumerate(faces):
        crops[number] = _cut(frame, liveness_matrix(face, crop, side), side, _BORDERS[crop.around])
    return crops


def with_purified(
    crop: NDArray[np.uint8], landmarks: NDArray[np.floating], purified: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """A crop with the purified face in place.

    Parameters
    ----------
    crop : ndarray
        (side, side, 3) uint8 BGR.
    landmarks : ndarray
        (5, 2) pixels of the crop.
    purified : ndarray
        (112, 112) uint8, aligned. It becomes the luminance, see `paste`.
    """
    matrix = similarity(landmarks)
    larger = float(np.hypot(*matrix[:, 0]))
    if larger > 1:  # pasting samples it, and would alias
        purified = np.asarray(cv2.GaussianBlur(purified, (0, 0), _ALIAS * larger), np.uint8)
    return paste(crop, purified[None], matrix[None])


def _cut(frame: NDArray[np.uint8], matrix: NDArray[np.float64], side: int, border: int) -> NDArray[np.uint8]:
    """Where the square is larger than the crop only its part of the frame is blurred, not the whole frame."""
    scale, source, shift = float(matrix[0, 0]), frame, np.zeros(2)
    if scale < 1:
        margin = 2 / scale
        height, width = frame.shape[:2]
        low = np.floor(-matrix[:, 2] / scale - margin)
        high = np.ceil((side - matrix[:, 2]) / scale + margin)
        left, top = np.clip(low, 0, (width - 1, height - 1)).astype(int)
        right, bottom = np.clip(high, (left + 1, top + 1), (width, height)).astype(int)
        source = np.asarray(cv2.GaussianBlur(frame[top:bottom, left:right], (0, 0), _ALIAS / scale), np.uint8)
        shift = np.array([left, top], float)
    moved = matrix.copy()
    moved[:, 2] += scale * shift
    found = cv2.warpAffine(source, moved, (side, side), flags=cv2.INTER_LINEAR, borderMode=border)
    return np.asarray(found, np.uint8)
