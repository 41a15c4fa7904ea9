"""Alignment to the ArcFace five-point template, and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime.faces.face import Face

__all__ = ["SIDE", "TEMPLATE", "AlignedFaces", "align", "check_frame", "similarity"]

SIDE = 112

# ArcFace (Deng et al., CVPR 2019), for 112 x 112: image-left eye, image-right eye, nose, mouth corners.
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)

# A face this many times larger than the crop is blurred first; bilinear sampling alone would alias.
_ALIAS = 1.5


@dataclass(frozen=True, eq=False)
class AlignedFaces:
    """Faces of a frame in the template's frame.

    Attributes
    ----------
    crops : ndarray
        (N, 112, 112, 3) uint8 BGR.
    grey : ndarray
        (N, 112, 112) float32 in [-1, 1].
    matrices : ndarray
        (N, 2, 3) float64, from pixels of the frame to pixels of the crop.
    """

    crops: NDArray[np.uint8]
    grey: NDArray[np.float32]
    matrices: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.crops)


def check_frame(frame: NDArray[np.uint8]) -> None:
    """Refuse anything but (H, W, 3) uint8.

    Raises
    ------
    InputError
        Saying what was found.
    """
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise InputError(f"the frame is {found}, but it must be uint8 (H, W, 3) in BGR order: convert it first")
    if 0 in frame.shape:
        raise InputError(f"the frame is empty, {frame.shape}: give one with at least one pixel")


def similarity(landmarks: NDArray[np.floating]) -> NDArray[np.float64]:
    """Rotation, scale and shift that bring five points nearest to the template, in least squares (Umeyama, 1991).

    Parameters
    ----------
    landmarks : ndarray
        (5, 2) pixels.

    Returns
    -------
    ndarray
        (2, 3) float64, from picture to crop. In two dimensions the optimum is a quotient of complex numbers, and
        cannot be a reflection.

    Raises
    ------
    InputError
        If the points are not (5, 2), not finite, or lie on one spot.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != (5, 2):
        raise InputError(f"the landmarks have the shape {points.shape}, but five points (5, 2) are needed")
    if not np.isfinite(points).all():
        raise InputError("the landmarks hold NaN or infinity: find the face again")
    source = points[:, 0] + 1j * points[:, 1]
    target = TEMPLATE[:, 0] + 1j * TEMPLATE[:, 1]
    source_mean, target_mean = source.mean(), target.mean()
    spread = float(np.sum(np.abs(source - source_mean) ** 2))
    if spread < 1e-6:
        raise InputError("the five landmarks lie on one spot, so the face has no size: find the face again")
    turn = complex(np.sum(np.conj(source - source_mean) * (target - target_mean))) / spread
    if abs(turn) < 1e-9:
        raise InputError("the five landmarks do not form a face: find the face again")
    shift = target_mean - turn * source_mean
    return np.array([[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]])


def align(frame: NDArray[np.uint8], faces: Sequence[Face]) -> AlignedFaces:
    """Cut faces out of a frame, aligned to the template; what lies beyond the frame repeats its edge.

    Parameters
    ----------
    frame : ndarray
        (H, W, 3) uint8 BGR.
    faces : sequence of Face
        May be empty.

    Raises
    ------
    InputError
        If the frame or a face's landmarks cannot be used.
    """
    check_frame(frame)
    matrices = np.empty((len(faces), 2, 3))
    crops = np.empty((len(faces), SIDE, SIDE, 3), np.uint8)
    grey = np.empty((len(faces), SIDE, SIDE), np.float32)
    for number, face in enumerate(faces):
        matrices[number] = similarity(face.landmarks)
        crops[number] = _warp(frame, matrices[number])
        grey[number] = cv2.cvtColor(crops[number], cv2.COLOR_BGR2GRAY)
    grey /= np.float32(127.5)
    grey -= np.float32(1)
    return AlignedFaces(crops, grey, matrices)


def _warp(frame: NDArray[np.uint8], matrix: NDArray[np.float64]) -> NDArray[np.uint8]:
    source, shift = frame, np.zeros(2)
    larger = 1 / float(np.hypot(*matrix[:, 0]))
    if larger > _ALIAS:
        corners = cv2.transform(
            np.array([[[0.0, 0.0], [SIDE, 0.0], [0.0, SIDE], [SIDE, SIDE]]]),
            cv2.invertAffineTransform(matrix),
        )[0]
        margin = 3 * larger
        height, width = frame.shape[:2]
        left, top = np.clip(np.floor(corners.min(0) - margin), 0, (width - 1, height - 1)).astype(int)
        right, bottom = np.clip(np.ceil(corners.max(0) + margin), (left + 1, top + 1), (width, height)).astype(int)
        # The blur of a pixel grid that is `larger` times coarser; sigma 0.5 of the coarse pixel is customary.
        # Landmarks far wider than the frame would ask for a kernel of any size; cap it.
        sigma = min(0.5 * larger, float(max(bottom - top, right - left)) / 4)
        source = np.asarray(cv2.GaussianBlur(frame[top:bottom, left:right], (0, 0), max(sigma, 0.5)), np.uint8)
        shift = np.array([left, top], np.float64)
    moved = matrix.copy()
    moved[:, 2] += matrix[:, :2] @ shift
    return np.asarray(
        cv2.warpAffine(source, moved, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        np.uint8,
    )
