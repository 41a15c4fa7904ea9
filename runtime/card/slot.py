"""Pinned memory of one call."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from immunecam.kernels.cuda.memory import part
from immunecam.kernels.cuda.staging import Staging

__all__ = ["Slot"]


class Slot:
    """What goes to the card and comes from it in one call, in pinned memory by name; it grows with what is asked.

    A purifier has two, so that one call copies on the host while the other's faces are on the card.

    Parameters
    ----------
    done : cuda.core.Event
        After which the call's results are there and the memory may be written again.
    """

    def __init__(self, done: Any) -> None:
        self.done = done
        self._rooms: dict[str, Staging] = {}

    def room(self, name: str, size: int) -> NDArray[np.uint8]:
        """The first bytes of the memory of that name; what was there may be lost."""
        if name not in self._rooms or self._rooms[name].buffer.size < size:
            made = Staging(size)  # first, so that a failure leaves what was there
            if name in self._rooms:
                self._rooms[name].close()
            self._rooms[name] = made
        return self._rooms[name].bytes[:size]

    def place(self, name: str, size: int, offset: int = 0) -> Any:
        """Bytes of the memory of that name as a `cuda.core.Buffer`, for copies and, by its address, for kernels."""
        return part(self._rooms[name].buffer, size, offset)

    def close(self) -> None:
        """Give the memory back."""
        while self._rooms:
            self._rooms.popitem()[1].close()
