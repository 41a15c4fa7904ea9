"""A face found in a frame."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Face"]


@dataclass(frozen=True, eq=False)
class Face:
    """Where a face is, in pixels of the frame.

    Attributes
    ----------
    box : ndarray
        (4,) float32: left, top, width, height.
    landmarks : ndarray
        (5, 2) float32, x and y of image-left eye, image-right eye, nose, image-left and image-right mouth corner.
    score : float
        Confidence of the finder, 0 to 1.
    track : int or None
        Number that the face keeps from frame to frame while a :class:`FollowingFinder` follows it; None of a finder
        that sees single frames.
    """

    box: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    score: float
    track: int | None = None
