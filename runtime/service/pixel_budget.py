"""How many pictures are in work at a time, and how large: one of a kilobyte may have 100 megabytes in memory."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import AsyncIterator

from immunecam.runtime.service.refusal import Overloaded

__all__ = ["PixelBudget"]


class PixelBudget:
    """Lets pictures in, first come first served, as long as they fit; for one event loop.

    A few at a time are finished one after the other; all at once would all be late.

    Parameters
    ----------
    total : int
        Pixels. What has more is let in alone.
    places : int
        Pictures.
    wait_s : float
        Longest that one waits.
    """

    def __init__(self, total: int, places: int, wait_s: float) -> None:
        self._left = self._total = total
        self._places, self._wait_s = places, wait_s
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @contextlib.asynccontextmanager
    async def taken(self, pixels: int) -> AsyncIterator[None]:
        """Wait for room for that many pixels, and hold it.

        Raises
        ------
        Overloaded
            If there was none in time.
        """
        pixels = min(pixels, self._total)
        try:
            await asyncio.wait_for(self._take(pixels), self._wait_s)
        except asyncio.TimeoutError:
            after = math.ceil(self._wait_s)
            raise Overloaded(
                f"other pictures were in work for {self._wait_s:g} s: try again in {after} s", after
            ) from None
        try:
            yield
        finally:
            self._give_back(pixels)

    def _give_back(self, pixels: int) -> None:
        self._left += pixels
        self._places += 1
        self._let_in()

    async def _take(self, pixels: int) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((pixels, turn))
        self._let_in()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # let in, and cancelled in the same moment
                self._give_back(pixels)
            self._let_in()
            raise

    def _let_in(self) -> None:
        while self._queue:
            pixels, turn = self._queue[0]
            if not turn.cancelled():
                if pixels > self._left or not self._places:
                    return
                self._left -= pixels
                self._places -= 1
                turn.set_result(None)
            self._queue.popleft()
