"""What every run folder needs: one run, one trainer at a time, and a Ctrl-C that waits for the end of a step."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from immunecam.errors import InputError
from immunecam.files import written_whole

__all__ = ["Hold", "claim_run", "interrupt_later"]


def claim_run(folder: Path, checkpoint: Path, identity: dict[str, Any], *, resume: bool, mine: bool = True) -> None:
    """Write to ``config.json``, or compare with it, what a folder is a run of.

    Parameters
    ----------
    folder, checkpoint : Path
        The run's.
    identity : dict
        Plain values; all must be those of the run that is resumed.
    resume : bool
        Whether to go on with what is there.
    mine : bool
        False compares only: another process writes.

    Raises
    ------
    InputError
        If the folder holds a run that is not to be resumed, or another one.
    """
    identity = json.loads(json.dumps(identity))
    file = folder / "config.json"
    if checkpoint.exists():
        if not resume:
            raise InputError(f"{str(folder)!r} already holds a run: go on with --resume, or name another folder")
        try:
            found = json.loads(file.read_text())
        except (OSError, ValueError):
            raise InputError(f"{str(file)!r} is missing or damaged, so the run cannot be resumed") from None
        known = found if isinstance(found, dict) else {}
        different = [key for key in identity if known.get(key) != identity[key]]
        if different:
            raise InputError(
                f"{str(folder)!r} holds a run with other {' and '.join(different)}: "
                "resume with the same arguments, or name another folder"
            )
    if mine:
        with written_whole(file) as partial:
            partial.write_text(json.dumps(identity, indent=1))


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
