"""Ctrl-C, or a service manager's SIGTERM, between frames and not inside one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["FrameInterrupt"]


class FrameInterrupt:
    """Holds signals back while a frame is in work, so that a frame is counted if and only if it is written.

    Outside a frame, where a source may wait for its camera without end, a signal raises KeyboardInterrupt at once; so
    does a second one.

    Parameters
    ----------
    *signals : signal.Signals
        Those that end the work; none means SIGINT, Ctrl-C. One that somebody else handles already is left alone.
    """

    def __init__(self, *signals: signal.Signals) -> None:
        self._signals = signals or (signal.SIGINT,)
        self._before: dict[signal.Signals, object] = {}
        self._busy = self._pressed = False

    def __enter__(self) -> FrameInterrupt:
        # Handlers can be set in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL):
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()

    @contextmanager
    def frame(self) -> Iterator[None]:
        """One frame's work; a signal that came meanwhile is raised after it."""
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
