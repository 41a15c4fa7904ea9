"""A video as a camera, again and again: the newest frame is purified, and how old it then is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from immunecam.benchmarks.latency import faces_work
from immunecam.runtime.faces import FollowingFinder, face_finder
from immunecam.runtime.frames import LiveSource

__all__ = ["Work"]


class Work(faces_work.Work):
    """Reading, searching and purifying overlap, as in `immunecam purify` on a camera; nothing is written.

    See :class:`immunecam.benchmarks.latency.worker.Work`.

    Parameters
    ----------
    specification : mapping
        "bundle", "provider", "threads", "keys", "state", "source", a video, and "speed", a multiple of its own rate.
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        self._purifier = self._load(specification)
        self._finder = FollowingFinder(face_finder())
        self._camera = LiveSource(Path(specification["source"]), repeat=True, speed=specification["speed"])
        self._newest = iter(self._camera)

    @property
    def about(self) -> Mapping[str, Any]:
        """The provider that was taken, the size of a frame, and how many came, were dropped and were searched.

        A file that begins again is no reconnection.
        """
        status = self._camera.status
        return {
            "provider": self._purifier.provider,
            "width": status.width,
            "height": status.height,
            "came": status.frames,
            "dropped": status.dropped,
            "reconnections": status.reconnections,
            "searches": self._finder.searches,
        }

    def run(self, batch: int) -> tuple[dict[str, float], int]:
        """Milliseconds of work on the newest frame, and since it was decoded; it has the faces that it has."""
        frame = next(self._newest)
        began = time.perf_counter()
        done = self._purifier.purify_frame(frame.image, self._finder)
        total = 1000 * (time.perf_counter() - began)
        return {"total": total, "age": 1000 * self._camera.age_s(frame)}, len(done.faces)
