"""One engine for many requests: faces that come within a few milliseconds of each other are purified together."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from immunecam.errors import UsageError
from immunecam.runtime.face_batch import checked_faces
from immunecam.runtime.results import PurifiedFaces
from immunecam.runtime.service.refusal import Overloaded, Refusal

__all__ = ["BatchPurifier", "Batcher"]

_log = logging.getLogger(__name__)


class BatchPurifier(Protocol):
    """What a batcher needs of a purifier."""

    def purify_batch(self, faces: NDArray[Any]) -> PurifiedFaces:
        """Purified faces of uint8 or float32 (N, 112, 112)."""
        ...


@dataclass(eq=False)
class _Waiting:
    faces: NDArray[Any]
    since: float
    done: Future[PurifiedFaces] = field(default_factory=Future)


class Batcher:
    """Collects faces of many callers, and gives each its own back. Safe to use from several threads.

    A batch begins as soon as it is full, or its first face has waited for `wait_s`, or the engine comes back to faces
    that have waited that long already. Whoever cancels the future of a submission that has not begun is not computed
    for.

    Parameters
    ----------
    purifier : BatchPurifier
        Called from one thread only.
    wait_s : float
        Latency that may be paid for company; 0 pays none.
    max_batch : int
        Faces of a batch. One submission is never split here.
    max_waiting : int
        Faces that may wait.
    max_wait_s : float
        Longest that a face may have to wait, as far as the engine's pace tells beforehand.
    observe : callable, optional
        Told of each batch: faces, submissions, and seconds that it took.
    """

    def __init__(
        self,
        purifier: BatchPurifier,
        *,
        wait_s: float,
        max_batch: int,
        max_waiting: int,
        max_wait_s: float = math.inf,
        observe: Callable[[int, int, float], None] | None = None,
    ) -> None:
        if max_batch < 1 or max_waiting < 1 or not 0 <= wait_s < math.inf:
            raise UsageError(
                f"a batcher's wait_s, max_batch and max_waiting are {wait_s}, {max_batch} and {max_waiting}, wanted 0 "
                "or more, 1 or more and 1 or more"
            )
        self._purifier, self._wait_s, self._max_batch, self._max_waiting = purifier, wait_s, max_batch, max_waiting
        self._max_wait_s, self._observe = max_wait_s, observe
        self._changed = threading.Condition()  # guards everything below
        self._queue: deque[_Waiting] = deque()
        self._faces = 0
        self._closing = False
        self._face_s = 0.02  # seconds of a face, a running mean
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def waiting_faces(self) -> int:
        """Faces that wait for the engine now."""
        with self._changed:
            return self._faces

    def submit(self, faces: NDArray[Any]) -> Future[PurifiedFaces]:
        """Have faces purified.

        Parameters
        ----------
        faces : ndarray of uint8 or float32, shape (N, 112, 112)
            As for :meth:`Purifier.purify`. Checked here, so that bad ones spoil nobody else's batch.

        Returns
        -------
        Future of PurifiedFaces
            ``timings_ms`` has "wait", and the stages of the whole batch that the faces were in.

        Raises
        ------
        InputError
            If the faces cannot be used.
        Overloaded
            If too many wait already; nothing was queued.
        Refusal
            If the batcher is closed, or there are more faces than may ever wait.
        """
        item = _Waiting(checked_faces(faces), time.monotonic())
        if len(item.faces) > self._max_waiting:
            raise Refusal(
                413, f"the request has {len(item.faces)} faces, but it may have {self._max_waiting}: send fewer at once"
            )
        with self._changed:
            if self._closing:
                raise Refusal(503, "the service is shutting down: try another one")
            self._drop_cancelled()
            wait_s = self._faces * self._face_s
            if self._faces + len(item.faces) > self._max_waiting or wait_s > self._max_wait_s:
                after = max(1, math.ceil(wait_s))
                raise Overloaded(
                    f"{self._faces} faces wait for the engine already, of {self._max_waiting} that may: try again in "
                    f"{after} s",
                    after,
                )
            self._queue.append(item)
            self._faces += len(item.faces)
            self._changed.notify_all()
        return item.done

    def close(self) -> None:
        """Purify what was accepted, and end. Calling it again does nothing."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _run(self) -> None:
        while True:
            batch = self._next()
            if batch is None:
                return
            for group in _alike(batch):
                self._purify(group)

    def _next(self) -> list[_Waiting] | None:
        """Whoever is in the next batch; None when there will be none."""
        with self._changed:
            while True:
                self._drop_cancelled()
                if self._queue:
                    left = self._queue[0].since + self._wait_s - time.monotonic()
                    if left <= 0 or self._faces >= self._max_batch or self._closing:
                        break
                    self._changed.wait(left)
                elif self._closing:
                    return None
                else:
                    self._changed.wait()
            batch, count = list[_Waiting](), 0
            while self._queue and (not batch or count + len(self._queue[0].faces) <= self._max_batch):
                item = self._queue.popleft()
                self._faces -= len(item.faces)
                if item.done.set_running_or_notify_cancel():
                    batch.append(item)
                    count += len(item.faces)
            return batch

    def _drop_cancelled(self) -> None:
        if any(item.done.cancelled() for item in self._queue):
            self._queue = deque(item for item in self._queue if not item.done.cancelled())
            self._faces = sum(len(item.faces) for item in self._queue)

    def _purify(self, group: list[_Waiting]) -> None:
        began = time.monotonic()
        try:
            found = self._purifier.purify_batch(np.concatenate([item.faces for item in group]))
        except Exception as error:  # whatever it is, it belongs to those who wait, and the thread goes on
            _log.warning("a batch of %d requests failed: %s", len(group), error)
            for item in group:
                item.done.set_exception(error)
            return
        took, count, start = time.monotonic() - began, len(found.purified), 0
        self._face_s += 0.1 * (took / max(1, count) - self._face_s)
        if self._observe is not None:
            self._observe(count, len(group), took)
        for item in group:
            part = slice(start, start + len(item.faces))
            timings = {"wait": 1000 * (began - item.since), **found.timings_ms}
            own = PurifiedFaces(found.purified[part], found.probabilities[part], found.first_image + start, timings)
            start = part.stop
            item.done.set_result(own)


def _alike(batch: list[_Waiting]) -> list[list[_Waiting]]:
    """By dtype, which cannot be mixed in one array."""
    kinds: dict[str, list[_Waiting]] = {}
    for item in batch:
        kinds.setdefault(item.faces.dtype.str, []).append(item)
    return list(kinds.values())
