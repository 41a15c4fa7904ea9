"""An engine that looks at each face once, however many antibodies are drawn of it."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.evaluation.kept import Kept
from immunecam.runtime.engines import Engine

__all__ = ["RememberedAnalysis"]


class RememberedAnalysis:
    """An engine whose analyses are kept.

    A deep analyzer costs several times what all the rest does, and judging a defence asks for up to ten antibodies of
    one face. To be used from one thread.

    Parameters
    ----------
    engine : Engine
        Analyses and restores.
    limit : int
        Bytes of probabilities to keep at most, as for :class:`Kept`.
    """

    def __init__(self, engine: Engine, limit: int = 1 << 28) -> None:
        self._engine, self._kept = engine, Kept[NDArray[np.float32]](limit)

    @property
    def provider(self) -> str:
        """The engine's."""
        return self._engine.provider

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        return self._engine.k

    def analyze(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """Activation probabilities (N, K) of faces (N, 112, 112) in [-1, 1]."""
        name = hashlib.sha256(np.ascontiguousarray(faces)).digest()
        return self._kept.get(name, lambda: self._engine.analyze(faces))

    def restore(self, faces: NDArray[np.float32], projected: NDArray[np.float32]) -> NDArray[np.float32]:
        """Restored faces (N, 112, 112), not clipped, of faces and projected faces in [-1, 1]."""
        return self._engine.restore(faces, projected)
