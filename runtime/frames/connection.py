"""One connection to a camera, a stream, or a file that is played as if it were one; it ends, and another is made."""

from __future__ import annotations

import math
import os
import threading
import time
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["Connection", "Finished", "Lost", "connect"]


_DAMAGED = 50  # frames that may be damaged one after another; of a connection that has ended, none takes any time


class Lost(Exception):
    """A connection that could not be made or is gone; the text says how, for people."""


class Finished(Exception):
    """A source that has an end, and has come to it."""


class Connection(Protocol):
    """Frames until it raises."""

    fps: float
    """Frames a second as the source has it, 0 if it does not tell."""

    def read(self) -> NDArray[np.uint8]:
        """The next frame, (H, W, 3) uint8 BGR; raises Lost or Finished."""
        ...

    def close(self) -> None:
        """Let go of device, socket or file."""
        ...


def connect(
    address: int | str | Path, timeout_s: float, *, repeat: bool, speed: float, stop: threading.Event
) -> Connection:
    """Connect to a camera's number, a stream's URL, or a video file.

    Raises
    ------
    Lost
        If there is nothing, or it does not answer within `timeout_s` seconds.
    """
    if isinstance(address, Path):
        return _Playing(address, repeat, speed, stop)
    return _Capture(address, timeout_s)


class _Capture:
    """OpenCV's capture. No read of a stream outlasts the time-out: FFmpeg asks all the while whether it has passed."""

    def __init__(self, address: int | str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        began = time.monotonic()
        try:
            if isinstance(address, int):
                # Video4Linux waits ten seconds for a frame unless told; told once, it holds for the whole process.
                os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(math.ceil(timeout_s)))
                self._capture = cv2.VideoCapture(address)
                self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the driver's queue would hand out old frames
            else:
                limit = max(1, round(timeout_s * 1000))
                options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
                self._capture = cv2.VideoCapture(address, cv2.CAP_FFMPEG, options)
        except cv2.error:
            raise Lost("it cannot be opened") from None
        if not self._capture.isOpened():
            self._capture.release()
            silent = time.monotonic() - began >= 0.9 * timeout_s
            raise Lost(f"no answer for {timeout_s:g} s" if silent else "it refuses, or is not there")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = rate if 0 < rate <= 240 else 0.0

    def read(self) -> NDArray[np.uint8]:
        began = time.monotonic()
        for _ in range(_DAMAGED):
            try:
                found, image = self._capture.read()
            except cv2.error:  # out of the reader it would end the thread without a word
                found, image = False, None
            if time.monotonic() - began >= 0.9 * self._timeout_s:
                # A frame may come all the same, one that the decoder had kept back: old, and more with every time-out.
                raise Lost(f"no frame for {self._timeout_s:g} s")
            if found and image is not None:
                return np.asarray(image, np.uint8)
        raise Lost("it ended, or cannot be decoded")

    def close(self) -> None:
        self._capture.release()


class _Playing:
    """A video file at its own rate, for demonstrations and for tests of what stands behind a camera."""

    def __init__(self, path: Path, repeat: bool, speed: float, stop: threading.Event) -> None:
        self._path, self._repeat, self._stop = path, repeat, stop
        self._capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            self._capture.release()
            raise Lost("it is not a video, or is gone")
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = (rate if 0 < rate < 1000 else 25.0) * speed
        self._due = time.monotonic()

    def read(self) -> NDArray[np.uint8]:
        found, image = self._capture.read()
        if not found and self._repeat:
            self._capture.release()
            self._capture = cv2.VideoCapture(str(self._path), cv2.CAP_FFMPEG)
            found, image = self._capture.read()
            if not found:
                raise Lost("it is not a video any more, or is gone")
        if not found or image is None:
            raise Finished
        self._stop.wait(max(0.0, self._due - time.monotonic()))
        # Behind by more than a frame, as after a suspended process: nobody wants what was missed in a burst.
        self._due = max(self._due, time.monotonic() - 1 / self.fps) + 1 / self.fps
        return np.asarray(image, np.uint8)

    def close(self) -> None:
        self._capture.release()
