"""What an engine is: the part of a backend that the purifier talks to."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

__all__ = ["CardEngine", "Engine", "WholePurifier"]


@runtime_checkable
class Engine(Protocol):
    """Gives aligned faces their antibody probabilities, and restores projected ones. Safe to call from any thread."""

    @property
    def provider(self) -> str:
        """The backend in use: "cpu", "cuda" or "tensorrt"."""
        ...

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        ...

    def analyze(self, faces: NDArray[np.float32]) -> NDArray[np.float32]:
        """Activation probabilities in [0, 1], shape (N, K), of faces (N, 112, 112) in [-1, 1]."""
        ...

    def restore(self, faces: NDArray[np.float32], projected: NDArray[np.float32]) -> NDArray[np.float32]:
        """Restored faces (N, 112, 112), not clipped, of faces and projected faces in [-1, 1].

        Called only for a bundle that has a restorer.
        """
        ...


@runtime_checkable
class WholePurifier(Engine, Protocol):
    """An engine that does all of it, mutation, projection and restoration too, in one call."""

    def purify(
        self, faces: NDArray[np.float32], uniforms: NDArray[np.float32], expected: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """Purified faces, uint8 (N, 112, 112), and probabilities, float32 (N, K).

        The antibody is p itself if ``expected``, else the bits ``uniforms < p``; ``uniforms`` is (N, K).
        """
        ...


@runtime_checkable
class CardEngine(Protocol):
    """Runs a bundle's networks between buffers of a card, on a stream that is given.

    For one thread at a time, unless an engine says more. Calls start the work and come back; the stream tells when it
    is done. Buffers are addresses on the card, aligned to 256 bytes, and hold float32. What goes wrong raises an
    :class:`ImmuneCamError` or the library's own exception.
    """

    @property
    def provider(self) -> str:
        """The backend in use: "cuda" or "tensorrt"."""
        ...

    @property
    def k(self) -> int:
        """Number of eigenfaces, K."""
        ...

    @property
    def max_batch(self) -> int:
        """Faces of a call at most."""
        ...

    @property
    def capturable(self) -> bool:
        """Whether its launches may stand in a CUDA graph, after one call with the same sizes, on the same thread.

        Each number of faces may cost such an engine memory for as many as it can take, so few of them should be used.
        """
        ...

    def analyze_on(self, n: int, *, faces: int, probabilities: int, stream: Any) -> None:
        """Activation probabilities (n, K) of faces (n, 112, 112) in [-1, 1]; `stream` is a `cuda.core.Stream`."""
        ...

    def restore_on(self, n: int, *, faces: int, projected: int, restored: int, stream: Any) -> None:
        """Restored faces, not clipped, of faces and projected faces in [-1, 1], (n, 112, 112) each.

        Called only for a bundle that has a restorer.
        """
        ...

    def close(self) -> None:
        """Give back what it holds, once the streams of all calls are done; calling it again does nothing."""
        ...
