"""Cameras and network streams: newest frame wins, lost connections come back."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime.frames.frame import Frame
from immunecam.runtime.frames.source import FrameSource
from immunecam.runtime.quiet import silence

__all__ = ["LiveSource", "without_secrets"]

_log = logging.getLogger(__name__)


def without_secrets(url: str) -> str:
    """A stream's address as it may be logged: without user, password and query, where cameras carry their keys."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as a bracket left open
        return url.partition("://")[0] + "://"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


class LiveSource(FrameSource):
    """A camera by number or a stream by URL, read by a thread that keeps only the newest frame.

    A device must look at what is in front of it now; frames that came while it was busy are dropped and counted.

    Parameters
    ----------
    address : int or str
        Camera number, or rtsp:// or http:// URL.
    timeout_s : float
        Longest wait for a connection, and for the next frame of one.
    give_up_s : float
        A source that stays lost this long ends the iteration with an InputError.

    Raises
    ------
    InputError
        If the first connection fails.
    UsageError
        If a time is not above 0.
    """

    live = True

    def __init__(self, address: int | str, *, timeout_s: float = 5.0, give_up_s: float = 30.0) -> None:
        silence()
        for what, value in (("timeout_s", timeout_s), ("give_up_s", give_up_s)):
            if not value > 0:
                raise UsageError(f"{what} is {value!r}, wanted seconds above 0")
        self.address, self.timeout_s, self.give_up_s = address, timeout_s, give_up_s
        self.name = str(address) if isinstance(address, int) else without_secrets(address)
        self.kind = "camera" if isinstance(address, int) else "stream"
        self.dropped = 0
        self.reconnections = 0
        self._stop = threading.Event()
        self._fresh = threading.Condition()
        self._frame: Frame | None = None
        self._failure: InputError | None = None
        self._began = time.monotonic()
        capture = self._connect()
        image = self._read(capture) if capture is not None else None
        if capture is None or image is None:
            if capture is not None:
                capture.release()
            what = f"the {self.kind} {self.name}"
            raise InputError(f"{what} does not open or gives no frame within {timeout_s:g} s: check that it is there")
        self.height, self.width = image.shape[:2]
        rate = float(capture.get(cv2.CAP_PROP_FPS))
        self.fps = rate if 0 < rate <= 240 else 25.0
        self._frame = Frame(image, 0, time.monotonic() - self._began, self.name)
        self._thread = threading.Thread(target=self._run, args=(capture,), name=f"reader {self.name}", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with self._fresh:
                while self._frame is None and self._failure is None and not self._stop.is_set():
                    self._fresh.wait(0.5)
                frame, self._frame = self._frame, None
            if self._stop.is_set():
                return
            if frame is not None:
                yield frame
            elif self._failure is not None:
                raise self._failure

    def close(self) -> None:
        """Stop the reader; it ends at the latest when its time-out does."""
        self._stop.set()
        with self._fresh:
            self._fresh.notify_all()
        self._thread.join(2 * self.timeout_s + 1)

    def _connect(self) -> cv2.VideoCapture | None:
        try:
            if isinstance(self.address, int):
                capture = cv2.VideoCapture(self.address)
                capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the driver's queue would hand out old frames
            else:
                limit = int(self.timeout_s * 1000)
                options = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, limit, cv2.CAP_PROP_READ_TIMEOUT_MSEC, limit]
                capture = cv2.VideoCapture(self.address, cv2.CAP_FFMPEG, options)
        except cv2.error:
            return None
        if capture.isOpened():
            return capture
        capture.release()
        return None

    @staticmethod
    def _read(capture: cv2.VideoCapture) -> NDArray[np.uint8] | None:
        try:
            found, image = capture.read()
        except cv2.error:  # a damaged stream is a lost one; out of the reader it would end the thread without a word
            return None
        return np.asarray(image, np.uint8) if found and image is not None else None

    def _run(self, capture: cv2.VideoCapture | None) -> None:
        index, wait, lost_at = 1, 0.25, 0.0
        while not self._stop.is_set():
            image = self._read(capture) if capture is not None else None
            if image is not None:
                wait, lost_at = 0.25, 0.0
                with self._fresh:
                    if self._frame is not None:
                        self.dropped += 1
                    self._frame = Frame(image, index, time.monotonic() - self._began, self.name)
                    self._fresh.notify_all()
                index += 1
                continue
            if capture is not None:
                capture.release()
                capture = None
                _log.warning("lost %s, reconnecting", self.name)
            now = time.monotonic()
            lost_at = lost_at or now
            if now - lost_at > self.give_up_s:
                with self._fresh:
                    self._failure = InputError(
                        f"{self.kind} {self.name!r} was lost for {self.give_up_s:g} s: check the cable or the network"
                    )
                    self._fresh.notify_all()
                break
            # Jitter, so that many devices do not come back to one camera server at the same instant.
            self._stop.wait(wait * random.uniform(0.5, 1.5))
            wait = min(2 * wait, 5.0)
            if not self._stop.is_set():
                capture = self._connect()
                self.reconnections += capture is not None
        if capture is not None:
            capture.release()
