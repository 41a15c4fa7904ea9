"""One picture of a source."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Frame"]


@dataclass(frozen=True, eq=False)
class Frame:
    """A frame and where it came from.

    Attributes
    ----------
    image : ndarray
        (H, W, 3) uint8 BGR.
    index : int
        Number of the frame in its source, from 0; a live source skips the numbers of frames that it dropped.
    timestamp_s : float
        Seconds: position in a video, monotonic clock since opening of a live source, 0 for a still picture.
    name : str
        File name of a still picture, else the source's.
    """

    image: NDArray[np.uint8]
    index: int
    timestamp_s: float
    name: str
