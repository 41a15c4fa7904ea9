"""The default finder: OpenCV's bundled cascade proposes, the landmark model places five points or refuses."""

from __future__ import annotations

import os
import threading

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime.faces.align import check_frame
from immunecam.runtime.faces.crop import box_from_landmarks
from immunecam.runtime.faces.face import Face
from immunecam.runtime.faces.landmarks import LandmarkModel
from immunecam.runtime.faces.overlap import without_doubles

__all__ = ["CascadeFinder"]

_FILE = "haarcascade_frontalface_alt2.xml"
_SMALLEST = 20  # pixels, the window that the cascade was trained with


class CascadeFinder:
    """Near-frontal faces, without a download; one finder serves several threads.

    Parameters
    ----------
    min_face : int
        Width in pixels of the smallest face to look for, from 20.
    max_side : int
        Larger frames are searched at this size of their longer side (never so small that `min_face` is lost);
        landmarks are always placed at full resolution.
    min_score : float
        Face score of the landmark model below which a proposal is refused.

    Raises
    ------
    InputError
        If OpenCV's cascade file or the landmark model is missing.
    """

    def __init__(self, *, min_face: int = 32, max_side: int = 1280, min_score: float = 0.5) -> None:
        if min_face < _SMALLEST:
            raise InputError(f"min_face is {min_face}, but the cascade sees faces from {_SMALLEST} pixels on")
        self.min_face, self.max_side, self.min_score = min_face, max_side, min_score
        self._path = os.path.join(os.path.dirname(cv2.__file__), "data", _FILE)
        self._local = threading.local()
        self.landmarks = LandmarkModel()
        self._classifier()

    def find(self, frame: NDArray[np.uint8]) -> list[Face]:
        """Faces of an (H, W, 3) uint8 BGR frame, largest first."""
        check_frame(frame)
        grey = np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY), np.uint8)
        boxes = self._propose(grey)
        if not len(boxes):
            return []
        centres = boxes[:, :2] + boxes[:, 2:] * (0.5, 0.55)
        points, scores = self.landmarks.locate(grey, centres, boxes[:, 2])
        # Looking again at the square that the points frame halves their error.
        framed = [box_from_landmarks(p) for p in points]
        points, again = self.landmarks.locate(
            grey, np.array([f[0] for f in framed]), np.array([max(f[1], 4.0) for f in framed])
        )
        scores = np.minimum(scores, again)
        faces = []
        for p, score in zip(points, scores, strict=True):
            if score >= self.min_score and np.isfinite(p).all():
                centre, side = box_from_landmarks(p)
                box = np.array([*(centre - side / 2), side, side], np.float32)
                faces.append(Face(box, p, float(score)))
        return sorted(without_doubles(faces), key=lambda face: -float(face.box[2]))

    def _propose(self, grey: NDArray[np.uint8]) -> NDArray[np.float64]:
        """(N, 4) boxes in pixels of the frame."""
        longer = max(grey.shape)
        scale = min(1.0, max(self.max_side / longer, _SMALLEST / self.min_face))
        small = grey if scale == 1 else cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        if min(small.shape) < _SMALLEST:
            return np.zeros((0, 4))
        smallest = max(_SMALLEST, round(self.min_face * scale * 0.9))
        found = self._classifier().detectMultiScale(
            cv2.equalizeHist(small), scaleFactor=1.1, minNeighbors=1, minSize=(smallest, smallest)
        )
        boxes: NDArray[np.float64] = np.array(found, np.float64).reshape(-1, 4)
        boxes /= scale
        return boxes

    def _classifier(self) -> cv2.CascadeClassifier:
        # A classifier keeps buffers while it runs, so every thread has its own.
        classifier: cv2.CascadeClassifier | None = getattr(self._local, "classifier", None)
        if classifier is None:
            classifier = cv2.CascadeClassifier(self._path)
            if classifier.empty():
                raise InputError(
                    f"OpenCV's cascade {self._path!r} cannot be read: install opencv-python-headless 4.x again"
                )
            self._local.classifier = classifier
        return classifier
