"""YuNet by path: OpenCV's own face detector (Wu et al., 2023), for those who have its file."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime.faces.align import check_frame
from immunecam.runtime.faces.face import Face
from immunecam.runtime.quiet import silence

__all__ = ["YuNetFinder"]

# Frames are padded to a multiple of YuNet's coarsest stride.
_STRIDE = 32


class YuNetFinder:
    """Faces by a YuNet ONNX file; one finder serves several threads.

    Parameters
    ----------
    path : path
        A YuNet model for `cv2.FaceDetectorYN`.
    min_score : float
        Faces below this score are dropped.
    max_side : int
        Larger frames are searched at this size of their longer side.

    Raises
    ------
    InputError
        If the file is missing or OpenCV cannot use it as YuNet.
    """

    def __init__(self, path: str | Path, *, min_score: float = 0.7, max_side: int = 1280) -> None:
        self.path, self.min_score, self.max_side = Path(path), min_score, max_side
        if not self.path.is_file():
            raise InputError(f"the face finder {str(path)!r} does not exist: give the path of a YuNet .onnx file")
        self._local = threading.local()
        silence()
        self.find(np.zeros((64, 64, 3), np.uint8))  # a file that is no YuNet is known only by trying it

    def find(self, frame: NDArray[np.uint8]) -> list[Face]:
        """Faces of an (H, W, 3) uint8 BGR frame, largest first."""
        check_frame(frame)
        height, width = frame.shape[:2]
        scale = min(1.0, self.max_side / max(height, width))
        image = frame
        if scale < 1:
            size = (max(1, round(width * scale)), max(1, round(height * scale)))
            image = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.uint8)
        below, beside = -image.shape[0] % _STRIDE, -image.shape[1] % _STRIDE
        if below or beside:
            image = np.asarray(cv2.copyMakeBorder(image, 0, below, 0, beside, cv2.BORDER_CONSTANT), np.uint8)
        try:
            detector = self._detector()
            detector.setInputSize((image.shape[1], image.shape[0]))
            _, rows = detector.detect(image)
        except cv2.error as error:
            raise InputError(
                f"the face finder {str(self.path)!r} is no YuNet model that OpenCV {cv2.__version__} can run"
                f"{_reason(error)}: give a YuNet file made for a fixed input size"
            ) from None
        faces = []
        for row in [] if rows is None else rows:
            if np.isfinite(row).all() and row[2] > 0 and row[3] > 0:
                row = row / np.float32(scale)
                score = float(row[14] * scale)  # the division was for the coordinates
                faces.append(Face(row[:4].astype(np.float32), row[4:14].reshape(5, 2).astype(np.float32), score))
        return sorted(faces, key=lambda face: -float(face.box[2] * face.box[3]))

    def _detector(self) -> cv2.FaceDetectorYN:
        detector: cv2.FaceDetectorYN | None = getattr(self._local, "detector", None)
        if detector is None:
            detector = cv2.FaceDetectorYN.create(str(self.path), "", (64, 64), self.min_score)
            self._local.detector = detector
        return detector


def _reason(error: cv2.error) -> str:
    """OpenCV's own assertion, without the paths of its build."""
    text = " ".join(str(error.err or error).split())
    return f" ({text[:100]})" if text else ""
