"""Faces that were purified already, for whoever judges them next."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.defences import Defence
from immunecam.benchmarks.evaluation.kept import Kept

__all__ = ["PurifiedFaces"]


class PurifiedFaces:
    """Purified faces in memory.

    A face attacked on one recogniser is judged by all of them, and an enrolled one is compared with every attack's:
    what a defence makes of it is the same.

    Parameters
    ----------
    limit : int
        Bytes to keep at most, as for :class:`Kept`.
    """

    def __init__(self, limit: int = 1 << 30) -> None:
        self._kept = Kept[NDArray[np.uint8]](limit)

    def of(self, faces: NDArray[np.uint8], defence: Defence, draw: int) -> NDArray[np.uint8]:
        """Faces (N, 112, 112) behind a defence; `draw` numbers independent repetitions of one that draws."""
        name = hashlib.sha256(np.ascontiguousarray(faces)).hexdigest()
        key = (name, defence.key, defence.provider, draw if defence.draws else 0)
        return self._kept.get(key, lambda: defence.purify(faces, draw))
