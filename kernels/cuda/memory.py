"""Memory of a card, taken and divided."""

from __future__ import annotations

from typing import Any

from immunecam.errors import InputError
from immunecam.kernels.cuda.card import one_line

__all__ = ["allocate", "part"]


def allocate(device: Any, size: int, *, stream: Any, advice: str) -> Any:
    """A buffer of that many bytes on the card, in the order of the stream.

    Parameters
    ----------
    device : cuda.core.Device
        Whose memory resource gives it.
    advice : str
        What to do where there is no room, for the error's end.

    Raises
    ------
    InputError
        If the card has not the memory.
    """
    try:
        return device.memory_resource.allocate(size, stream=stream)
    except Exception as error:  # CUDAError, or MemoryError
        raise InputError(f"The card has no {size} bytes left ({one_line(error)}): {advice}.") from None


def part(buffer: Any, size: int, offset: int = 0) -> Any:
    """Some bytes of a buffer as a buffer of their own, which keeps the whole alive: cuda.core copies whole buffers."""
    if size == buffer.size:
        return buffer
    from cuda.core import Buffer

    return Buffer.from_handle(int(buffer.handle) + offset, size, owner=buffer)
