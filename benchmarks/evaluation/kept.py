"""Arrays kept in memory for whoever asks again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

from numpy.typing import NDArray

__all__ = ["Kept"]

_Array = TypeVar("_Array", bound=NDArray[Any])


class Kept(Generic[_Array]):
    """Arrays by key, the ones not used for longest given up first.

    Parameters
    ----------
    limit : int
        Bytes to keep at most; a single array that is larger is kept until the next.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._size = limit, 0
        self._arrays: OrderedDict[Hashable, _Array] = OrderedDict()

    def get(self, key: Hashable, compute: Callable[[], _Array]) -> _Array:
        """The array of a key, computed if it is not there."""
        if key in self._arrays:
            self._arrays.move_to_end(key)
            return self._arrays[key]
        found = self._arrays[key] = compute()
        self._size += found.nbytes
        while self._size > self._limit and len(self._arrays) > 1:
            self._size -= self._arrays.popitem(last=False)[1].nbytes
        return found
