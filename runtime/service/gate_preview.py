"""What the gate would say of whoever stands before the camera, while somebody looks at the live page."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

from immunecam.runtime.gate.track import FaceTracker, Track
from immunecam.runtime.service.purification import Prepared

if TYPE_CHECKING:
    from immunecam.runtime.gate.access_gate import AccessGate
    from immunecam.runtime.gate.event import GateEvent

__all__ = ["GatePreview"]

_EVERY_S = 0.5
_PAUSE_S = 2.0  # after which whoever stands where another one stood is not taken for him
_SPARE = 2  # faces beyond those that a decision needs, for some are not good enough

_log = logging.getLogger(__name__)


class GatePreview:
    """Follows the faces of the view, and has the gate compare the largest one now and then.

    The gate's own purification and limits are used, whatever the view is set to; nothing is written down, and nothing
    opens. `see` is for one thread, `newest` for all.

    Parameters
    ----------
    gate : AccessGate
    submit : callable
        Has the gate's thread do something. What it does there delays a decision by no more than one comparison.
    """

    def __init__(self, gate: AccessGate, submit: Callable[[Callable[[], GateEvent]], Future[GateEvent]]) -> None:
        self._gate, self._submit = gate, submit
        self._tracker, self._seen = FaceTracker(), -math.inf
        self._pending: Future[GateEvent] | None = None
        self._asked = 0.0
        self._found: tuple[GateEvent, float] | None = None

    def see(self, prepared: Prepared) -> None:
        """Take the faces of the next frame."""
        now = time.monotonic()
        if now - self._seen > _PAUSE_S:
            self._tracker = FaceTracker(max_sightings=self._gate.min_frames + _SPARE)
        self._seen = now
        observer = self._gate.observer
        self._tracker.update(observer.aligned_sightings(prepared.frame, prepared.faces, prepared.aligned))
        if now - self._asked < _EVERY_S or (self._pending is not None and not self._pending.done()):
            return
        self._asked = now
        seen = [track for track in self._tracker.tracks if not track.missed]
        track = max(seen, key=lambda one: one.area, default=Track(0))
        sightings, frames = list(track.sightings), track.frames
        self._pending = self._submit(lambda: self._gate.preview(sightings, frames))
        self._pending.add_done_callback(self._keep)

    def newest(self) -> tuple[GateEvent, float] | None:
        """What the gate would have said last, and seconds since; None before the first."""
        found = self._found
        return None if found is None else (found[0], time.monotonic() - found[1])

    def _keep(self, done: Future[GateEvent]) -> None:
        if done.cancelled():
            return
        error = done.exception()
        if error is not None:  # such as a store that was changed: who asks for a decision is told, the page goes on
            _log.warning("the gate's preview failed: %s", error)
            self._found = None
            return
        self._found = (done.result(), time.monotonic())
