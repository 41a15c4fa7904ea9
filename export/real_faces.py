"""Real faces for calibration and comparison: the crops of a folder, or those found in pictures or a clip."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime.faces.align import align
from immunecam.runtime.faces.finder import face_finder
from immunecam.runtime.frames.source import FrameSource

__all__ = ["real_faces"]

_SIDE = 112
# Frames of a clip hardly differ from one to the next.
_EVERY = 6


def real_faces(source: str | Path | None = None, *, limit: int = 24) -> NDArray[np.float32]:
    """Aligned grey faces.

    Parameters
    ----------
    source : path, optional
        Picture, folder or video. A picture of 112x112 is taken for an aligned face, in others faces are looked for.
        None takes the clip that is installed with the package.
    limit : int
        Faces at most.

    Returns
    -------
    ndarray of float32, shape (N, 112, 112)
        In [-1, 1]; N is at least 1.

    Raises
    ------
    InputError
        If the source cannot be read or has no face.
    """
    place = source or Path(str(importlib.resources.files("immunecam"))) / "data" / "sample.mp4"
    finder, found = face_finder(), list[NDArray[np.float32]]()
    with FrameSource.open(place) as frames:
        for number, frame in enumerate(frames):
            image = frame.image
            if image.shape[:2] == (_SIDE, _SIDE):
                grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
                found.append(grey.astype(np.float32) / np.float32(127.5) - np.float32(1))
            elif source is not None or number % _EVERY == 0:
                found += list(align(image, finder.find(image)).grey)
            if len(found) >= limit:
                break
    if not found:
        raise InputError(f"{str(place)!r} has no face: give pictures or a clip of faces, or aligned crops of 112x112.")
    return np.stack(found[:limit])
