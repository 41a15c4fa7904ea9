"""How much boxes of faces have in common."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from immunecam.runtime.faces.face import Face

__all__ = ["overlap", "without_doubles"]


def overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes (left, top, width, height), 0 to 1."""
    low, high = np.maximum(a[:2], b[:2]), np.minimum(a[:2] + a[2:], b[:2] + b[2:])
    common = float(np.prod(np.maximum(high - low, 0)))
    return common / max(float(a[2] * a[3] + b[2] * b[3]) - common, 1e-9)


def without_doubles(faces: Iterable[Face], limit: float = 0.35) -> list[Face]:
    """Of faces that overlap by more than `limit`, the one of the best score."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda item: -item.score):
        if all(overlap(face.box, other.box) <= limit for other in kept):
            kept.append(face)
    return kept
