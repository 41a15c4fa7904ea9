"""Ctrl-C between frames, not inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["FrameInterrupt"]


class FrameInterrupt:
    """Holds Ctrl-C back while a frame is in work, so that a frame is counted if and only if it is written.

    Outside a frame, where a source may wait for its camera without end, Ctrl-C works at once; so does a second one.
    """

    def __init__(self) -> None:
        self._busy = self._pressed = False

    def __enter__(self) -> FrameInterrupt:
        # Handlers can be set in the main thread only, and nobody else's is to be replaced.
        self._ours = (
            threading.current_thread() is threading.main_thread()
            and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        )
        if self._ours:
            signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    @contextmanager
    def frame(self) -> Iterator[None]:
        """One frame's work; a Ctrl-C that came meanwhile is raised after it."""
        self._busy = True
        try:
            yield
        finally:
            self._busy = False
        if self._pressed:
            raise KeyboardInterrupt

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self._busy or self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
