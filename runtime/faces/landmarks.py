"""The bundled five-point landmark model, checked before it is loaded."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime.faces.crop import CROP_SIDE, crop_square, points_from_crop

__all__ = ["LandmarkModel"]

_NAME = "landmarks5"
_MOST = 4  # squares that go through the network at once


class LandmarkModel:
    """Five points and a face score of upright squares of a grey picture.

    Parameters
    ----------
    threads : int
        ONNX Runtime threads; one is fastest for a net this small.

    Raises
    ------
    InputError
        If the model's file is missing or not the one its manifest names.
    """

    def __init__(self, *, threads: int = 1) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        self._session: Any = onnxruntime.InferenceSession(
            _verified_bytes(), options, providers=["CPUExecutionProvider"]
        )
        # ONNX Runtime keeps the memory of the largest batch that it has met. Bounded, and met now, it does not grow by
        # steps on the day that many faces come.
        self._run(np.zeros((_MOST, CROP_SIDE, CROP_SIDE), np.float32))

    def locate(
        self, grey: NDArray[np.uint8], centres: NDArray[np.floating], sides: NDArray[np.floating]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Look at squares of a picture.

        Parameters
        ----------
        grey : ndarray
            (H, W) uint8.
        centres, sides : ndarray
            (N, 2) and (N,), in pixels.

        Returns
        -------
        points : ndarray
            (N, 5, 2) float32, pixels of the picture.
        scores : ndarray
            (N,) float32 in 0..1, that there is a face.
        """
        if not len(sides):
            return np.zeros((0, 5, 2), np.float32), np.zeros(0, np.float32)
        crops = np.empty((len(sides), CROP_SIDE, CROP_SIDE), np.float32)
        for number, (centre, side) in enumerate(zip(centres, sides, strict=True)):
            crops[number] = crop_square(grey, centre, float(side))
        crops = crops / np.float32(127.5) - np.float32(1)
        parts = [self._run(crops[start : start + _MOST]) for start in range(0, len(crops), _MOST)]
        points, logits = (np.concatenate(part) for part in zip(*parts, strict=True))
        located = [points_from_crop(p, c, float(s)) for p, c, s in zip(points, centres, sides, strict=True)]
        return np.stack(located), (1 / (1 + np.exp(-logits))).astype(np.float32)

    def _run(self, crops: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        points, logits = self._session.run(None, {"crops": crops})
        return points, logits


def _verified_bytes() -> bytes:
    folder = resources.files("immunecam.runtime") / "assets"
    try:
        manifest = json.loads((folder / f"{_NAME}.json").read_text(encoding="utf-8"))
        content = (folder / f"{_NAME}.onnx").read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"the landmark model cannot be read ({error}): install immunecam again") from None
    found = hashlib.sha256(content).hexdigest()
    if found != manifest.get("sha256"):
        raise InputError(
            f"the landmark model's SHA-256 is {found[:12]}..., its manifest says {str(manifest.get('sha256'))[:12]}: "
            "install immunecam again"
        )
    return content
