"""How many pixels are decoded at a time: a picture of a kilobyte may be one of 100 megabytes in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

__all__ = ["PixelBudget"]


class PixelBudget:
    """Lets pictures in, first come first served, as long as their pixels fit; for one event loop.

    Parameters
    ----------
    total : int
        Pixels. What has more is let in alone.
    """

    def __init__(self, total: int) -> None:
        self._left = self._total = total
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def taken(self, pixels: int) -> AsyncIterator[None]:
        """Wait for room for that many pixels, and hold it."""
        pixels = min(pixels, self._total)
        await self._take(pixels)
        try:
            yield
        finally:
            self._left += pixels
            self._let_in()

    async def _take(self, pixels: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((pixels, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in, and cancelled in the same moment
                self._left += pixels
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self._queue:
            pixels, turn = self._queue[0]
            if not turn.cancelled():
                if pixels > self._left:
                    return
                self._left -= pixels
                turn.set_result(None)
            self._queue.popleft()
