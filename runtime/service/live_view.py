"""What the live page shows: frames of the active camera, purified once for all who look at them in the same way."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import UsageError
from immunecam.kernels import MutationMode
from immunecam.runtime.faces import Face, FollowingFinder
from immunecam.runtime.frames import Frame
from immunecam.runtime.results import PurifiedFaces, Stopwatch
from immunecam.runtime.service.cameras import CameraDeck
from immunecam.runtime.service.gate_preview import GatePreview
from immunecam.runtime.service.metrics import ServiceMetrics
from immunecam.runtime.service.purification import Prepared, Purification
from immunecam.runtime.service.refusal import Overloaded, Refusal
from immunecam.runtime.service.view_picture import noise_picture, view_jpeg

__all__ = ["LiveView", "Seen"]

_MODES: tuple[MutationMode, ...] = ("sample", "threshold", "expected")
_EVERY_S = 1 / 15  # what is smoother shows an installer no more, and the gate wants the processor
_WAIT_S = 0.5  # for a new frame; after that the camera's state alone is told, however busy the machine is
_LOOK_S = 0.01
_KEPT_S = 0.5  # what was finished after its viewer had been told to ask again waits so long for him
_VIEWERS = 16


@dataclass(frozen=True, eq=False)
class Seen:
    """A frame as it is shown.

    Attributes
    ----------
    number : int
        Of the frame among those that were shown, from 1.
    camera : str
    width, height : int
        Pixels of the camera's frame.
    faces : list of Face
        The largest first.
    active : ndarray of float64, shape (N,)
        Active eigenfaces of each; empty where nothing was purified.
    probabilities : ndarray of float32, shape (N, K)
    timings_ms : dict of str to float
        By stage; "picture" is what only the page costs.
    before : bytes
        JPEG.
    after, noise : bytes or None
        None where nothing was purified: the picture is the same.
    """

    number: int
    camera: str
    width: int
    height: int
    faces: list[Face]
    active: NDArray[np.float64] = field(repr=False)
    probabilities: NDArray[np.float32] = field(repr=False)
    timings_ms: dict[str, float]
    before: bytes = field(repr=False)
    after: bytes | None = field(repr=False)
    noise: bytes | None = field(repr=False)


@dataclass(eq=False)
class _Shot:
    """A frame of the camera, and what became of it in each mode; None is without purification."""

    number: int
    frame: Frame
    camera: str
    since: float
    finished: float = 0.0
    prepared: Prepared | None = None
    before: bytes = b""
    made: dict[MutationMode | None, asyncio.Future[Seen]] = field(default_factory=dict)

    @property
    def in_work(self) -> bool:
        return any(not one.done() for one in self.made.values())

    def waits_for(self, mode: MutationMode | None, after: int) -> bool:
        """Whether it was finished just now for a viewer who has not seen it."""
        finished = mode in self.made and self.made[mode].done() and time.monotonic() - self.finished < _KEPT_S
        return finished and self.number != after


class LiveView:
    """Makes what viewers see, when they ask for it; for one event loop.

    A viewer asks for the next frame when he has drawn the last, so a slow one misses frames instead of being late, and
    nothing is done when nobody asks. All of it is done by one thread, a frame at a time: whoever asks meanwhile gets
    the same one, in four forms at most (three mutation modes, and without purification).

    Parameters
    ----------
    cameras : CameraDeck
    purification : Purification
        Of the service, whose engine is shared.
    metrics : ServiceMetrics
    preview : GatePreview, optional
        Shown every frame.
    """

    def __init__(
        self,
        cameras: CameraDeck,
        purification: Purification,
        metrics: ServiceMetrics,
        preview: GatePreview | None = None,
    ) -> None:
        self._cameras, self._metrics, self.preview = cameras, metrics, preview
        self._purifications: dict[MutationMode, Purification] = {}
        for mode in _MODES:
            try:
                self._purifications[mode] = purification.with_mutation(mode)
            except UsageError:  # on a card, which is built for one mode
                continue
        self._finder: FollowingFinder | None = None
        self._followed = ""  # on which camera
        self._thread = ThreadPoolExecutor(1, "view")
        self._shot: _Shot | None = None
        self._viewers = 0

    @property
    def modes(self) -> list[MutationMode]:
        """Mutation modes that can be looked at."""
        return list(self._purifications)

    def close(self) -> None:
        """End the frame that is in work."""
        self._thread.shutdown(cancel_futures=True)

    async def next(self, mode: MutationMode | None, after: int) -> Seen | None:
        """A frame with another number than `after`.

        Parameters
        ----------
        mode : {"sample", "threshold", "expected"} or None
            None does not purify.
        after : int
            Number of what is shown already; 0 is nothing.

        Returns
        -------
        Seen or None
            None if there was no new frame for half a second, or the camera was lost in that time; ask again.

        Raises
        ------
        Refusal
            Status 400 for a mode that the engine was not built for, 429 for too many viewers.
        """
        if mode is not None and mode not in self._purifications:
            raise Refusal(400, f"the engine was built for the mutation {', '.join(self.modes)}, not {mode}: ask for it")
        if self._viewers >= _VIEWERS:
            raise Overloaded(f"{_VIEWERS} viewers look already, which is all that may: try again in 5 s", 5)
        self._viewers += 1
        try:
            until, were = time.monotonic() + _WAIT_S, False
            while True:
                shot = self._newest(mode, after)
                if shot is None and were:
                    return None  # the camera was just lost, which is told at once
                were = shot is not None
                if shot is not None and shot.number != after:
                    made = self._made(shot, mode)
                    await asyncio.wait({made}, timeout=_LOOK_S)  # which leaves it alone: others may wait for it, too
                    if made.done():
                        return made.result()
                else:
                    await asyncio.sleep(_LOOK_S)
                if time.monotonic() >= until:
                    return None
        finally:
            self._viewers -= 1

    def _newest(self, mode: MutationMode | None, after: int) -> _Shot | None:
        """The frame that is looked at now; None while the camera gives none."""
        try:
            frame = self._cameras.newest()
        except Refusal:
            return None
        now, old, camera = time.monotonic(), self._shot, self._cameras.active or ""
        if old is None:
            self._shot = _Shot(1, frame, camera, now)
        elif frame is not old.frame and not old.in_work:
            due = now - old.since >= _EVERY_S and not old.waits_for(mode, after)
            if due or camera != old.camera:
                self._shot = _Shot(old.number + 1, frame, camera, now)
        return self._shot

    def _made(self, shot: _Shot, mode: MutationMode | None) -> asyncio.Future[Seen]:
        if mode not in shot.made:
            made = asyncio.get_running_loop().run_in_executor(self._thread, self._make, shot, mode)
            made.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may wait for it any more
            shot.made[mode] = made
        return shot.made[mode]

    def _make(self, shot: _Shot, mode: MutationMode | None) -> Seen:
        """In the view's thread."""
        image = shot.frame.image
        own = self._purifications[mode if mode is not None else self.modes[0]]
        if shot.prepared is None:
            if self._finder is None or shot.camera != self._followed:
                self._finder, self._followed = FollowingFinder(own.finder, background=False), shot.camera
            shot.prepared = own.look(image, finder=self._finder)
            watch = Stopwatch(shot.prepared.timings_ms)
            shot.before = view_jpeg(image)
            watch.lap("picture")
            if self.preview is not None:
                self.preview.see(shot.prepared)
        prepared = shot.prepared
        timings = dict(prepared.timings_ms)
        batch: PurifiedFaces | None = None
        active, probabilities = np.empty(0), np.empty((0, own.purifier.k), np.float32)
        after = noise = None
        if mode is not None and prepared.faces:
            began = time.perf_counter()
            batch = own.purifier.purify_batch(prepared.grey)
            self._metrics.batch(len(prepared.faces), 1, time.perf_counter() - began)
            timings |= batch.timings_ms
            watch = Stopwatch(timings)
            purified = own.picture(prepared, batch, "keep")
            watch.lap("paste")
            after, noise = view_jpeg(purified), view_jpeg(noise_picture(image, purified))
            watch.lap("picture")
            active, probabilities = own.active(batch), batch.probabilities
        self._metrics.stages(timings, active)
        shot.finished = time.monotonic()
        height, width = image.shape[:2]
        return Seen(
            shot.number,
            shot.camera,
            width,
            height,
            prepared.faces,
            active,
            probabilities,
            timings,
            shot.before,
            after,
            noise,
        )
