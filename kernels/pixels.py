"""Faces as 8-bit pixels and as numbers in [-1, 1]."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError

__all__ = ["dequantize_faces", "quantize_faces"]

_HALF_RANGE = np.float32(127.5)
_ONE = np.float32(1.0)


def quantize_faces(faces: NDArray[Any]) -> NDArray[np.uint8]:
    """Eight-bit pixels of faces: ``rint(clip((x + 1) * 127.5, 0, 255))``, halves to even.

    Parameters
    ----------
    faces : ndarray of float32 or float64, any shape
        Nominally in [-1, 1]; what lies outside is clipped, NaN is refused.

    Returns
    -------
    ndarray of uint8, same shape
        0 to 255. ``quantize_faces(dequantize_faces(u)) == u`` for every pixel value.

    Raises
    ------
    InputError
        If ``faces`` is not floating-point or holds NaN.
    """
    array = np.asarray(faces)
    if array.dtype.kind != "f":
        raise InputError(f"Faces to quantise have the dtype {array.dtype}, but it must be float32.")
    scaled: NDArray[np.float32] = array.astype(np.float32) + _ONE
    scaled *= _HALF_RANGE
    if np.isnan(scaled).any():
        raise InputError("Faces to quantise hold NaN, but every value must be a number: check the input.")
    np.clip(scaled, 0.0, 255.0, out=scaled)
    np.rint(scaled, out=scaled)
    return scaled.astype(np.uint8)


def dequantize_faces(pixels: NDArray[Any]) -> NDArray[np.float32]:
    """Faces in [-1, 1] from 8-bit pixels: ``u / 127.5 - 1``.

    Parameters
    ----------
    pixels : ndarray of uint8, any shape

    Returns
    -------
    ndarray of float32, same shape

    Raises
    ------
    InputError
        If ``pixels`` is not uint8.
    """
    array = np.asarray(pixels)
    if array.dtype != np.uint8:
        raise InputError(f"Pixels have the dtype {array.dtype}, but it must be uint8.")
    faces = array.astype(np.float32)
    faces /= _HALF_RANGE
    faces -= _ONE
    return faces
