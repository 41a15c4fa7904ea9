"""Who finds faces in a frame."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from immunecam.runtime.faces.face import Face

__all__ = ["FaceFinder", "face_finder"]


@runtime_checkable
class FaceFinder(Protocol):
    """Anything that finds faces with five landmarks."""

    def find(self, frame: NDArray[np.uint8]) -> list[Face]:
        """Faces of an (H, W, 3) uint8 BGR frame."""
        ...


def face_finder(path: str | Path | None = None) -> FaceFinder:
    """The bundled finder, or YuNet if a path to its file is given."""
    if path is None:
        from immunecam.runtime.faces.cascade import CascadeFinder

        return CascadeFinder()
    from immunecam.runtime.faces.yunet import YuNetFinder

    return YuNetFinder(path)
