"""What every run folder needs: one trainer at a time, and a Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from immunecam.errors import InputError

__all__ = ["Hold", "interrupt_later"]


@contextmanager
def interrupt_later() -> Iterator[Callable[[], bool]]:
    """Hold back the first Ctrl-C; gives a function that says whether there was one."""
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    # Handlers can be set in the main thread only; elsewhere no KeyboardInterrupt arrives either.
    mine = threading.current_thread() is threading.main_thread()
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not (mine and usual):
        yield lambda: False
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Hold:
    """A run folder, which two must not write at once, held; the hold ends with the process at the latest."""

    def __init__(self, folder: Path, mine: bool) -> None:
        self._folder, self._mine = folder, mine
        self._handle: int | None = None
        self.take()

    def take(self) -> None:
        if not self._mine or self._handle is not None:
            return
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(
                f"another process is training in {str(self._folder)!r}: wait for it, or name another folder"
            ) from None
        self._handle = handle

    def release(self) -> None:
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        self.release()
