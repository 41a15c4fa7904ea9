"""Faces that were purified already, for whoever judges them next."""

from __future__ import annotations

import hashlib
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.defences import Defence

__all__ = ["PurifiedFaces"]


class PurifiedFaces:
    """Purified faces in memory, the ones not used for longest given up first.

    A face attacked on one recogniser is judged by all of them, and an enrolled one is compared with every attack's:
    what a defence makes of it is the same.

    Parameters
    ----------
    limit : int
        Bytes to keep at most; a single set that is larger is kept until the next.
    """

    def __init__(self, limit: int = 1 << 30) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[tuple[str, str, str, int], NDArray[np.uint8]] = OrderedDict()

    def of(self, faces: NDArray[np.uint8], defence: Defence, draw: int) -> NDArray[np.uint8]:
        """Faces (N, 112, 112) behind a defence; `draw` numbers independent repetitions of one that draws."""
        name = hashlib.sha256(np.ascontiguousarray(faces)).hexdigest()
        key = (name, defence.key, defence.provider, draw if defence.draws else 0)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = self._kept[key] = defence.purify(faces, draw)
        self._size += found.nbytes
        while self._size > self._limit and len(self._kept) > 1:
            self._size -= self._kept.popitem(last=False)[1].nbytes
        return found
