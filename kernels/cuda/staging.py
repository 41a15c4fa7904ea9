"""Pinned memory of the host, as NumPy sees it, for copies to and from a card."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Staging"]


class Staging:
    """A pinned buffer and an array of its bytes.

    The array is made from the address: what NumPy imports by DLPack it may not write to.

    Attributes
    ----------
    buffer : cuda.core.Buffer
        For copies.
    bytes : ndarray of uint8
        Valid until :meth:`close`.
    """

    def __init__(self, size: int) -> None:
        from cuda.core import LegacyPinnedMemoryResource

        self.buffer: Any = LegacyPinnedMemoryResource().allocate(size)
        memory = (ctypes.c_uint8 * size).from_address(int(self.buffer.handle))
        self.bytes: NDArray[np.uint8] = np.ctypeslib.as_array(memory)

    def put(self, array: NDArray[Any], target: Any, *, stream: Any) -> None:
        """Write an array into the pinned memory and start its copy to a buffer of the same size on the card."""
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self.bytes[: flat.size] = flat
        self.buffer.copy_to(target, stream=stream)

    def get(self, source: Any, *, stream: Any) -> NDArray[np.uint8]:
        """The bytes of a buffer of the same size on the card, once the stream has come to it."""
        source.copy_to(self.buffer, stream=stream)
        stream.sync()
        found: NDArray[np.uint8] = self.bytes.copy()
        return found

    def close(self) -> None:
        """Give the memory back."""
        self.buffer.close()
