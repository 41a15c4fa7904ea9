"""Purified faces back into the frame that they came from."""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime.faces.align import SIDE, check_frame

__all__ = ["COLOUR_MODES", "ColourMode", "check_colour", "paste"]

ColourMode = Literal["keep", "grey"]
COLOUR_MODES = ("keep", "grey")

# The face fades into the frame over this many pixels of the crop, inside the region.
_FEATHER = 10


def _fade() -> NDArray[np.float32]:
    ramp = np.clip((np.minimum(np.arange(SIDE), np.arange(SIDE)[::-1]) + 0.5) / _FEATHER, 0, 1)
    return np.minimum.outer(ramp, ramp).astype(np.float32)


_FADE = _fade()


def paste(
    frame: NDArray[np.uint8],
    purified: NDArray[np.uint8],
    matrices: NDArray[np.float64],
    *,
    colour: ColourMode = "keep",
) -> NDArray[np.uint8]:
    """Put purified faces in place of the ones in the frame.

    The published methods are grey. With ``colour="keep"`` the purified face becomes the luminance, and the chroma
    (Cr, Cb of BT.601) of the frame stays as it was; so a perturbation that lives in the chroma alone is not
    removed. ``colour="grey"`` makes the face region grey, which is all that the methods vouch for.

    Parameters
    ----------
    frame : ndarray
        (H, W, 3) uint8 BGR; not changed.
    purified : ndarray
        (N, 112, 112) uint8.
    matrices : ndarray
        (N, 2, 3) from pixels of the frame to pixels of the crop, as `align` gives them.
    colour : str
        "keep" or "grey".

    Returns
    -------
    ndarray
        A new frame. A pixel outside every face's region, the turned square that was cut out for it, is the same as
        before, bit for bit.

    Raises
    ------
    InputError
        If shapes or dtypes do not fit.
    UsageError
        For another colour mode.
    """
    check_frame(frame)
    check_colour(colour)
    if purified.dtype != np.uint8 or purified.ndim != 3 or purified.shape[1:] != (SIDE, SIDE):
        raise InputError(
            f"the purified faces are {purified.dtype} {purified.shape}, but they must be uint8 (N, {SIDE}, {SIDE})"
        )
    if np.shape(matrices) != (len(purified), 2, 3) or not np.isfinite(matrices).all():
        raise InputError(
            f"there are {len(purified)} purified faces and matrices of the shape {np.shape(matrices)}, "
            f"but one finite (2, 3) matrix a face is needed"
        )
    if len(purified) and not (np.abs(np.linalg.det(np.asarray(matrices)[:, :, :2])) > 1e-12).all():
        raise InputError("a paste matrix has no inverse, so its face has no place in the frame: align the face again")
    result = np.array(frame)
    for face, matrix in zip(purified, matrices, strict=True):
        _paste_one(result, face, matrix, colour)
    return result


def check_colour(colour: str) -> None:
    """Raise a UsageError unless it is one of :data:`COLOUR_MODES`."""
    if colour not in COLOUR_MODES:
        raise UsageError(f"colour is {colour!r}, but it must be one of {', '.join(COLOUR_MODES)}")


def _paste_one(
    result: NDArray[np.uint8], face: NDArray[np.uint8], matrix: NDArray[np.float64], colour: ColourMode
) -> None:
    back = cv2.invertAffineTransform(matrix)
    edge = SIDE - 0.5
    corners = cv2.transform(np.array([[[-0.5, -0.5], [edge, -0.5], [-0.5, edge], [edge, edge]]]), back)[0]
    height, width = result.shape[:2]
    left, top = np.maximum(np.floor(corners.min(0)), 0).astype(int)
    right, bottom = np.minimum(np.ceil(corners.max(0)) + 1, (width, height)).astype(int)
    if left >= right or top >= bottom:
        return  # wholly beyond the frame
    moved = back.copy()
    moved[:, 2] -= (left, top)
    size = (int(right - left), int(bottom - top))
    region = result[top:bottom, left:right]
    mask = cv2.warpAffine(_FADE, moved, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    luminance = cv2.warpAffine(face, moved, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    if colour == "keep":
        ycrcb = cv2.cvtColor(region, cv2.COLOR_BGR2YCrCb)
        ycrcb[..., 0] = luminance
        painted = cv2.cvtColor(ycrcb, cv2.COLOR_YCrCb2BGR)
    else:
        painted = cv2.cvtColor(luminance, cv2.COLOR_GRAY2BGR)
    weight = mask[..., None]
    blended = np.rint(region + weight * (painted.astype(np.float32) - region)).astype(np.uint8)
    # The colour round trip is not exact, so where nothing is painted the frame's own pixel is kept.
    np.copyto(region, blended, where=weight > 0)
