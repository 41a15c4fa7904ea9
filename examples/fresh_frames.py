"""What a camera sees now, and nothing that it saw a while ago."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from immunecam.runtime.frame_interrupt import FrameInterrupt
from immunecam.runtime.frames import Frame, FrameSource, LiveSource, SourceState

__all__ = ["FreshFrames"]

_LOOK_S = 0.25


class FreshFrames:
    """Frames of a source in runs without a gap, so that no face is followed across a time when nobody looked.

    A live source keeps the newest frame; after a camera has hung, or the door was held open, that one shows the past.

    Parameters
    ----------
    source : FrameSource
    max_age_s : float
        A frame of a live source that is older is left out, and a gap that is longer ends a run.
    interrupt : FrameInterrupt
        Holds signals back while a frame is in work.
    processed : callable
        Called when a frame has gone through everything: the place to tell a watchdog, for a source that hangs gets
        nothing here.
    state : callable
        Called with a sentence when a live source stalls, is lost, or is there again.
    """

    def __init__(
        self,
        source: FrameSource,
        max_age_s: float,
        interrupt: FrameInterrupt,
        processed: Callable[[], None],
        state: Callable[[str], None],
    ) -> None:
        self._source, self._max_age_s, self._interrupt = source, max_age_s, interrupt
        self._processed, self._state = processed, state
        self._frames = self._watched(source) if isinstance(source, LiveSource) else iter(source)
        self._newest: float | None = None  # time of the frame in work, by the source's clock
        self._offset = float("inf")  # from that clock to the monotonic one
        self._ended = False

    def runs(self) -> Iterator[Iterator[NDArray[np.uint8]]]:
        """One run of frames (H, W, 3), uint8 BGR, after the other, until the source ends."""
        while not self._ended:
            yield self._run()

    def now(self) -> bool:
        """Whether the frame in work still shows the present; False between runs and after the last."""
        return self._newest is not None and self._age_s(self._newest) <= self._max_age_s

    def _run(self) -> Iterator[NDArray[np.uint8]]:
        last: float | None = None
        try:
            for frame in self._frames:
                at = frame.timestamp_s
                # The clocks' distance is that of the frame that took the shortest way.
                self._offset = min(self._offset, time.monotonic() - at)
                if last is not None and at - last > self._max_age_s:
                    return
                if self._age_s(at) > self._max_age_s:
                    continue
                self._newest = last = at
                with self._interrupt.frame():
                    yield frame.image
                self._processed()
            self._ended = True
        finally:
            self._newest = None

    def _watched(self, source: LiveSource) -> Iterator[Frame]:
        """Every frame, and what there is to say between them."""
        told = SourceState.CONNECTED
        while True:
            frame, status = source.read(_LOOK_S), source.status
            if status.state is not told:
                told = status.state
                self._state(f"camera {status}")
            if frame is not None:
                yield frame
            elif told is SourceState.ENDED:
                return

    def _age_s(self, at: float) -> float:
        return time.monotonic() - self._offset - at if self._source.live else 0.0
