"""The cameras of a service: one is open at a time, and another can take its place."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from typing import Any

from immunecam.errors import ImmuneCamError, UsageError
from immunecam.runtime.frames import Frame, FrameSource, LiveSource, SourceState, SourceStatus
from immunecam.runtime.frames.live import without_secrets
from immunecam.runtime.service.refusal import Refusal

__all__ = ["CameraDeck"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LOOK_S = 0.2


class CameraDeck:
    """Cameras by name. Safe to use from several threads.

    They are named when the service starts and by nobody later: a client that could name an address could have the
    service reach into the network that it stands in. A thread opens, reads and closes, so that nobody waits for a
    camera that does not answer.

    Parameters
    ----------
    cameras : Mapping of str to str
        Name to camera number, URL or video file, which is played again and again.
    active : str, optional
        The one to begin with; None takes the first.
    options : Mapping, optional
        Of :class:`LiveSource`.

    Raises
    ------
    UsageError
        If a name cannot stand in an address, or the active one is not there.
    """

    def __init__(
        self, cameras: Mapping[str, str], active: str | None = None, options: Mapping[str, Any] | None = None
    ) -> None:
        for name in cameras:
            if not _NAME.fullmatch(name):
                raise UsageError(f"the camera's name {name!r} must be 1 to 64 letters, digits or . _ -")
        if active is not None and active not in cameras:
            raise UsageError(f"the active camera is {active!r}, but there are {', '.join(cameras) or 'none'}")
        self._cameras = dict(cameras)
        self._options = {"wait_for_it": True, "give_up_s": None, "repeat": True, **(options or {})}
        self._changed = threading.Condition()  # guards everything below
        self._wanted = next(iter(cameras), None) if active is None else active
        self._open: str | None = None
        self._source: LiveSource | None = None
        self._frame: Frame | None = None
        self._why = "not open yet"
        self._since = time.monotonic()
        self._stop = False
        self._thread = threading.Thread(target=self._run, name="cameras", daemon=True)
        if cameras:
            self._thread.start()

    @property
    def active(self) -> str | None:
        """Name of the camera that is open, or is being opened; None without cameras."""
        with self._changed:
            return self._wanted

    def switch(self, name: str) -> None:
        """Make another camera the active one. It is opened at once, by the thread.

        Raises
        ------
        Refusal
            Status 404, if there is none of that name.
        """
        if name not in self._cameras:
            raise Refusal(404, f"there is no camera {name[:64]!r}: there are {', '.join(self._cameras) or 'none'}")
        with self._changed:
            if name != self._wanted:
                self._wanted, self._frame, self._why, self._since = name, None, "not open yet", time.monotonic()
                self._changed.notify_all()

    def status(self) -> list[dict[str, Any]]:
        """Each camera: name, address without its secrets, whether it is active, and if so its status."""
        with self._changed:
            source = self._source if self._open == self._wanted else None
            active, why, since = self._wanted, self._why, time.monotonic() - self._since
        opening = SourceStatus(SourceState.RECONNECTING, since, why, 0, 0, 0, 0, None, 0, 0)
        now = opening if source is None else source.status
        return [
            {
                "name": name,
                "address": without_secrets(address) if "://" in address else address,
                "active": name == active,
                "status": now.to_dict() if name == active else None,
            }
            for name, address in self._cameras.items()
        ]

    def newest(self) -> Frame:
        """The newest frame of the active camera; many may have the same one.

        Raises
        ------
        Refusal
            Status 404 without cameras; 503 while it gives no frames, for an old one would pass for what is there now.
        """
        if not self._cameras:
            raise Refusal(404, "the service was started without a camera: start it with --camera NAME=SOURCE")
        with self._changed:
            source = self._source if self._open == self._wanted else None
            found, name, why = self._frame, self._wanted, self._why
        if source is None:
            raise Refusal(503, f"the camera {name} gives no frames ({why}): try again", retry_after_s=1)
        status = source.status
        if found is None or status.state is not SourceState.CONNECTED:
            raise Refusal(503, f"the camera {name} gives no frames ({status}): try again", retry_after_s=1)
        return found

    def close(self) -> None:
        """Close what is open."""
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(_LOOK_S + 6)

    def _run(self) -> None:
        source: LiveSource | None = None
        name: str | None = None
        while True:
            with self._changed:
                if self._stop or self._wanted != name:
                    stop, name = self._stop, self._wanted
                    old, source, self._source, self._open = source, None, None, None
                else:
                    stop, old = False, None
            if old is not None:
                old.close()
            if stop:
                return
            if source is None:
                source = self._opened(name)
            if source is None:
                with self._changed:
                    self._changed.wait(1.0)
                continue
            try:
                frame = source.read(_LOOK_S)
            except ImmuneCamError:  # it never gives up, so this is none of its own; its status says what there is
                frame = None
            if frame is not None:
                with self._changed:
                    if self._wanted == name:
                        self._frame = frame
            elif source.status.state is SourceState.ENDED:
                time.sleep(_LOOK_S)

    def _opened(self, name: str | None) -> LiveSource | None:
        assert name is not None
        address = self._cameras[name]
        try:
            source = FrameSource.open(address, live=True, **self._options)
        except ImmuneCamError as error:
            with self._changed:
                if self._wanted == name:
                    self._why = str(error)
            return None
        assert isinstance(source, LiveSource)
        with self._changed:
            if self._wanted == name:
                self._source, self._open = source, name
        return source
