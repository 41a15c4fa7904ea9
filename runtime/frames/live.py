"""Cameras and network streams under supervision: newest frame wins, lost connections come back."""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import random
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError, UsageError
from immunecam.runtime.frames.connection import Connection, Finished, Lost, connect
from immunecam.runtime.frames.frame import Frame
from immunecam.runtime.frames.source import URL, FrameSource
from immunecam.runtime.frames.state import SourceState, SourceStatus
from immunecam.runtime.quiet import silence

__all__ = ["LiveSource", "without_secrets"]

_log = logging.getLogger(__name__)

_FIRST_WAIT_S = 0.25
_CLOSING_S = 0.5
_LONGEST_TIMEOUT_S = 86_400.0  # the decoders count milliseconds in 32 bits
_LOOK_S = 0.25  # how often a waiting consumer looks whether its source has fallen silent


def without_secrets(url: str) -> str:
    """A stream's address as it may be logged: without user, password and query, where cameras carry their keys."""
    try:
        parts = urlsplit(url)
    except ValueError:  # such as a bracket left open
        return url.partition("://")[0] + "://"
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


class LiveSource(FrameSource):
    """A camera by number, a stream by URL or a file played at its rate, read by a thread that keeps the newest frame.

    A device must look at what is in front of it now; frames that came while it was busy are dropped and counted, so
    nothing grows. A connection that is lost, or silent for longer than the time-out, is made anew, after waits that
    double from a quarter of a second, each half as long to half as long again by chance, so that many devices do not
    come back to one camera server at the same instant.

    Iterating waits for frames for ever, :meth:`read` as long as it is told; :attr:`status` tells anybody at any time.

    A new connection may have another size and codec. A stream that changes its size under the connection goes on in the
    size that it began with, because OpenCV scales it. FFmpeg watches 20 frames for their rate before it gives the
    first; ``OPENCV_FFMPEG_CAPTURE_OPTIONS="rtsp_transport;tcp|fpsprobesize;0"`` in the environment spares that (0.4 s
    to connect instead of 1.2 s at 25 frames a second), for every file that the process opens, too.

    Parameters
    ----------
    address : int, str or path
        Camera number; rtsp:// or http:// URL; video file. A string of digits is a number, one without ``://`` a file.
    timeout_s : float
        Longest wait for a connection, and for the next frame of one; a day at most.
    stall_s : float
        A source without a frame for this long is called stalled.
    give_up_s : float or None
        A source that stays lost this long ends the iteration with an InputError; None never gives up.
    longest_wait_s : float
        Where the waits between connections stop doubling.
    wait_for_it : bool
        Whether a source that is not there yet is no error: it is reconnecting, of size 0x0, until it comes.
    repeat : bool
        Whether a file begins again at its end.
    speed : float
        Of a file, as a multiple of its own rate.

    Raises
    ------
    InputError
        If the first connection fails.
    UsageError
        If a time or the speed is not above 0, or the time-out is longer than a day.
    """

    live = True

    def __init__(
        self,
        address: int | str | Path,
        *,
        timeout_s: float = 5.0,
        stall_s: float = 1.0,
        give_up_s: float | None = 30.0,
        longest_wait_s: float = 5.0,
        wait_for_it: bool = False,
        repeat: bool = False,
        speed: float = 1.0,
    ) -> None:
        silence()
        times = {"timeout_s": timeout_s, "stall_s": stall_s, "give_up_s": give_up_s, "longest_wait_s": longest_wait_s}
        for what, value in times.items():
            if value is not None and not value > 0:
                raise UsageError(f"{what} is {value!r}, wanted seconds above 0")
        if timeout_s > _LONGEST_TIMEOUT_S:
            raise UsageError(f"timeout_s is {timeout_s!r}, wanted {_LONGEST_TIMEOUT_S:g} seconds at most")
        if isinstance(address, str) and not URL.match(address):
            address = int(address) if address.isdecimal() else Path(address)
        self.address, self.timeout_s, self.stall_s, self.give_up_s = address, timeout_s, stall_s, give_up_s
        self.name = without_secrets(address) if isinstance(address, str) else str(address)
        self.kind = "camera" if isinstance(address, int) else "stream" if isinstance(address, str) else "video"
        self.width = self.height = 0
        self.fps = 25.0
        if not 0 < speed < math.inf:
            raise UsageError(f"speed is {speed!r}, wanted a number above 0")
        self._longest_wait_s, self._repeat, self._speed = longest_wait_s, repeat, speed
        self._stop = threading.Event()
        self._fresh = threading.Condition()  # guards everything below
        self._frame: Frame | None = None
        self._failure: InputError | None = None
        self._frames = self._dropped = self._connections = self._size_changes = 0
        self._state, self._why = SourceState.RECONNECTING, ""
        self._began = self._changed = self._newest = time.monotonic()
        connection = None
        try:
            connection = self._connected()
            self._take(connection.read())
        except (Lost, Finished) as error:
            if connection is not None:
                connection.close()
                connection = None
            why = str(error) or "it has no frame"
            if not wait_for_it:
                raise InputError(
                    f"the {self.kind} {self.name} does not open or gives no frame within {timeout_s:g} s ({why}): "
                    "check that it is there"
                ) from None
            self._lose(why)
        self._thread = threading.Thread(target=self._run, args=(connection,), name=f"reader {self.name}", daemon=True)
        self._thread.start()
        _running.add(self)

    # -- for the consumer ----------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Frame]:
        while True:
            frame = self.read(_LOOK_S)
            if frame is not None:
                yield frame
            elif self._over():
                return

    def read(self, wait_s: float) -> Frame | None:
        """The newest frame that was not taken yet, or None if none comes within `wait_s` seconds or none ever will.

        Raises
        ------
        InputError
            If the source was lost for longer than `give_up_s`.
        """
        until = time.monotonic() + wait_s
        with self._fresh:
            while self._frame is None and not self._over():
                left = until - time.monotonic()
                if left <= 0:
                    break
                self._fresh.wait(min(left, _LOOK_S))
                self._notice_silence()
            if self._stop.is_set():
                return None
            if self._frame is None and self._failure is not None:
                raise self._failure
            frame, self._frame = self._frame, None
            return frame

    @property
    def status(self) -> SourceStatus:
        """How the source is now."""
        with self._fresh:
            self._notice_silence()
            now = time.monotonic()
            return SourceStatus(
                self._state,
                now - self._changed,
                self._why,
                self._frames,
                self._dropped,
                max(0, self._connections - 1),
                self._size_changes,
                now - self._newest if self._frames else None,
                self.width,
                self.height,
            )

    def age_s(self, frame: Frame) -> float:
        """Seconds since one of this source's frames was decoded; what camera, network and decoder took comes on top."""
        return time.monotonic() - self._began - frame.timestamp_s

    def close(self) -> None:
        """Stop the reader. One that hangs in a silent connection ends when its time-out does, and is not waited for."""
        self._ask_to_stop()
        self._thread.join(_CLOSING_S)

    # -- the reader ----------------------------------------------------------------------------------------------

    def _run(self, connection: Connection | None) -> None:
        wait, lost_at, since = _FIRST_WAIT_S, time.monotonic(), time.monotonic()
        while not self._stop.is_set():
            try:
                if connection is None:
                    since = time.monotonic()
                    connection = self._connected()
                self._take(connection.read())
                lost_at = 0.0
                continue
            except Lost as error:
                why = str(error)
            except Finished:
                break
            except Exception as error:  # whatever else a decoder comes up with must not end the thread without a word
                why = f"{type(error).__name__}: {error}"
            now = time.monotonic()
            if connection is not None:
                connection.close()
                connection = None
                if now - since > wait:  # not a camera that lets in and throws out at once
                    wait = _FIRST_WAIT_S
            if self._stop.is_set():
                break
            lost_at = lost_at or now
            self._lose(why)
            if self.give_up_s is not None and now - lost_at > self.give_up_s:
                self._fail(f"{self.kind} {self.name!r} was lost for {self.give_up_s:g} s ({why})")
                break
            self._stop.wait(wait * random.uniform(0.5, 1.5))
            wait = min(2 * wait, self._longest_wait_s)
        if connection is not None:
            connection.close()
        with self._fresh:
            self._become(SourceState.ENDED)
            self._fresh.notify_all()

    def _connected(self) -> Connection:
        connection = connect(self.address, self.timeout_s, repeat=self._repeat, speed=self._speed, stop=self._stop)
        self.fps = connection.fps or self.fps
        return connection

    def _take(self, image: NDArray[np.uint8]) -> None:
        height, width = image.shape[:2]
        with self._fresh:
            if self._state is SourceState.RECONNECTING:
                self._connections += 1
            if (self.width, self.height) not in ((0, 0), (width, height)):
                self._size_changes += 1
                _log.warning("%s: %dx%d is now %dx%d", self.name, self.width, self.height, width, height)
            self.width, self.height = width, height
            self._dropped += self._frame is not None
            self._newest = time.monotonic()
            self._frame = Frame(image, self._frames, self._newest - self._began, self.name)
            self._frames += 1
            self._become(SourceState.CONNECTED)
            self._fresh.notify_all()

    def _lose(self, why: str) -> None:
        with self._fresh:
            self._why = why
            self._become(SourceState.RECONNECTING)
            self._fresh.notify_all()

    def _fail(self, why: str) -> None:
        with self._fresh:
            self._failure = InputError(f"{why}: check the cable or the network")

    # -- state, under the condition's lock ------------------------------------------------------------------------

    def _notice_silence(self) -> None:
        """The reader sits in a read that does not return, so others have to see that it does not."""
        if self._state is SourceState.CONNECTED and time.monotonic() - self._newest > self.stall_s:
            self._why = f"no frame for {self.stall_s:g} s"
            self._become(SourceState.STALLED)

    def _become(self, state: SourceState) -> None:
        if state is self._state:
            return
        before, self._state, self._changed = self._state, state, time.monotonic()
        if state in (SourceState.STALLED, SourceState.RECONNECTING):
            _log.warning("%s is %s: %s", self.name, state.value, self._why)
        elif state is SourceState.CONNECTED and self._frames > 1:
            _log.warning("%s is %s again, it was %s", self.name, state.value, before.value)

    def _over(self) -> bool:
        return self._stop.is_set() or self._failure is not None or self._state is SourceState.ENDED

    def _ask_to_stop(self) -> None:
        self._stop.set()
        with self._fresh:
            self._frame = None
            self._fresh.notify_all()


_running: weakref.WeakSet[LiveSource] = weakref.WeakSet()


@atexit.register
def _end_readers() -> None:
    """A decoder that comes back into an interpreter which is gone ends the process by a fault: wait for its time-out.

    All are told before one is waited for, so that it takes one time-out and not the sum of them.
    """
    sources = list(_running)
    for source in sources:
        source._ask_to_stop()
    for source in sources:
        with contextlib.suppress(RuntimeError):
            source._thread.join(source.timeout_s + 1)
