"""Pinned memory of the host, as NumPy sees it, for copies to and from a card."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.kernels.cuda.card import one_line
from immunecam.kernels.cuda.memory import part

__all__ = ["Staging", "StagingRing"]


class Staging:
    """A pinned buffer and an array of its bytes.

    The array is made from the address: what NumPy imports by DLPack it may not write to.

    Attributes
    ----------
    buffer : cuda.core.Buffer
        For copies.
    bytes : ndarray of uint8
        Valid until :meth:`close`.

    Raises
    ------
    InputError
        If the machine has not the memory.
    """

    def __init__(self, size: int) -> None:
        from cuda.core import LegacyPinnedMemoryResource

        try:
            self.buffer: Any = LegacyPinnedMemoryResource().allocate(size)
        except Exception as error:
            raise InputError(
                f"The machine has no {size} bytes of pinned memory left ({one_line(error)}): close another program."
            ) from None
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
        self.bytes = np.empty(0, np.uint8)
        self.buffer.close()


class StagingRing:
    """Two pinned buffers in turn, so that the host writes one while the other is still being copied.

    For one thread at a time.

    Parameters
    ----------
    size : int
        Bytes of each.
    """

    def __init__(self, size: int) -> None:
        self._staging, self._copied, self._next = [Staging(size) for _ in range(2)], list[Any]([None, None]), 0

    def put(self, array: NDArray[Any], target: Any, *, stream: Any) -> None:
        """Write an array into the next buffer, once its earlier copy is done, and start its copy to the card.

        Parameters
        ----------
        array : ndarray
            Up to the buffers' size.
        target : cuda.core.Buffer
            At least as large; its beginning is written.
        """
        turn, self._next = self._next, 1 - self._next
        if self._copied[turn] is not None:
            self._copied[turn].sync()
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        self._staging[turn].bytes[: flat.size] = flat
        part(self._staging[turn].buffer, flat.size).copy_to(part(target, flat.size), stream=stream)
        self._copied[turn] = stream.record(self._copied[turn])

    def close(self) -> None:
        """Give the memory back, once its copies are done."""
        for event, staging in zip(self._copied, self._staging, strict=True):
            if event is not None:
                event.sync()
            staging.close()
