"""The check at the purifier's door: what a caller gives, as faces that an engine can take."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.kernels import dequantize_faces

__all__ = ["checked_faces", "face_batch"]

_SIDE = 112
# Interpolation and float rounding may overshoot a little; a wrong scale overshoots a lot.
_RANGE_SLACK = 1e-3


def face_batch(faces: Any) -> NDArray[np.float32]:
    """Faces as a contiguous batch in [-1, 1].

    Parameters
    ----------
    faces : ndarray of float32 or uint8, shape (N, 112, 112) or (112, 112)
        float32 in [-1, 1], or uint8 pixels.

    Returns
    -------
    ndarray of float32, shape (N, 112, 112)

    Raises
    ------
    InputError
        If it is no array, the shape or dtype is wrong, or a value is NaN, infinite or more than 0.001
        outside [-1, 1].
    """
    batch = checked_faces(faces)
    return dequantize_faces(batch) if batch.dtype == np.uint8 else batch


def checked_faces(faces: Any) -> NDArray[Any]:
    """The same as they were given: a contiguous batch (N, 112, 112) of float32 in [-1, 1] or uint8."""
    if not isinstance(faces, np.ndarray):
        raise InputError(f"The faces are a {type(faces).__name__}, but they must be a numpy array.")
    if faces.dtype not in (np.float32, np.uint8):
        raise InputError(
            f"The faces have the dtype {faces.dtype}, but it must be float32 in [-1, 1] or uint8: convert them."
        )
    if faces.ndim not in (2, 3) or faces.shape[-2:] != (_SIDE, _SIDE):
        raise InputError(
            f"The faces have the shape {faces.shape}, but it must be (N, {_SIDE}, {_SIDE}) or ({_SIDE}, "
            f"{_SIDE}): align them to grey crops first."
        )
    batch = np.ascontiguousarray(faces.reshape(-1, _SIDE, _SIDE))
    if batch.dtype == np.uint8:
        return batch
    if batch.size and not np.isfinite(batch).all():
        worst = int(np.flatnonzero(~np.isfinite(batch).all(axis=(1, 2)))[0])
        raise InputError(f"Face {worst} holds NaN or infinity, but every value must be a number in [-1, 1].")
    if batch.size:
        low, high = float(batch.min()), float(batch.max())
        if low < -1 - _RANGE_SLACK or high > 1 + _RANGE_SLACK:
            raise InputError(
                f"The faces' values range from {low:g} to {high:g}, but they must be in [-1, 1]: give uint8 "
                "pixels, or scale them by x / 127.5 - 1."
            )
    return batch
