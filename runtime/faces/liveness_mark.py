"""Faces of a frame marked as live or not, in words and by line, for whoever looks at it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.runtime.faces.align import check_frame
from immunecam.runtime.faces.face import Face

if TYPE_CHECKING:
    from immunecam.runtime.liveness import LivenessResult

__all__ = ["mark_liveness"]

# BGR of Okabe and Ito's blue and vermilion, which people with any colour vision can tell apart.
_COLOURS = {True: (178, 114, 0), False: (0, 94, 213)}
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def mark_liveness(
    frame: NDArray[np.uint8], faces: Sequence[Face], results: Sequence[LivenessResult]
) -> NDArray[np.uint8]:
    """A copy of the frame with a box about every face, and what was judged of it above.

    A live face has a thin box, another a thick one, so that colour is not the only difference.

    Parameters
    ----------
    frame : ndarray
        (H, W, 3) uint8 BGR.
    faces, results : sequence
        N each.

    Raises
    ------
    InputError
        If the frame cannot be used.
    """
    check_frame(frame)
    marked = np.array(frame)
    for face, result in zip(faces, results, strict=True):
        left, top, width, height = (round(float(value)) for value in face.box)
        colour, thick = _COLOURS[result.live], max(1, round(width / 120)) * (1 if result.live else 3)
        cv2.rectangle(marked, (left, top), (left + width, top + height), colour, thick, cv2.LINE_AA)
        size = max(0.35, width / 260)
        place = (left, max(round(24 * size), top - round(8 * size)))
        said = f"{'live' if result.live else 'not live'} {result.score:.2f}"
        # Dark below light, so that it can be read on any ground.
        for line, ink in ((round(5 * size) + 2, (0, 0, 0)), (max(1, round(2 * size)), (255, 255, 255))):
            cv2.putText(marked, said, place, _FONT, size, ink, line, cv2.LINE_AA)
    return marked
