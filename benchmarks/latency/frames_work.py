"""Frames of a source: decoding, finding, alignment, purification, paste-back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.latency.faces_work import trust_of
from immunecam.runtime.faces import FaceFinder, face_finder
from immunecam.runtime.frames import FrameSource
from immunecam.runtime.purifier import Purifier

__all__ = ["Work"]


class Work:
    """`Purifier.purify_frame` of a source's frames, from the first again after the last.

    See :class:`immunecam.benchmarks.latency.worker.Work`.

    Parameters
    ----------
    specification : mapping
        "bundle", "provider", "threads", "keys", "state" and "source".
    """

    def __init__(self, specification: Mapping[str, Any]) -> None:
        cv2.setNumThreads(specification["threads"])
        self._purifier = Purifier.load(
            specification["bundle"],
            provider=specification["provider"],
            threads=specification["threads"],
            finder=self._finder(),
            trust=trust_of(specification),
        )
        self._frames = _decoded(specification["source"])

    def _finder(self) -> FaceFinder:
        return face_finder()

    @property
    def about(self) -> Mapping[str, Any]:
        """The provider that was taken."""
        return {"provider": self._purifier.provider}

    def run(self, batch: int) -> tuple[dict[str, float], int]:
        """The next frame; a frame has the faces that it has, so the batch means nothing here."""
        image, decode = next(self._frames)
        began = time.perf_counter()
        done = self._purifier.purify_frame(image)
        total = decode + 1000 * (time.perf_counter() - began)
        return {"decode": decode, **done.timings_ms, "total": total}, len(done.faces)


def _decoded(source: str) -> Iterator[tuple[NDArray[np.uint8], float]]:
    """Frames, and the milliseconds that each took to come."""
    while True:
        began = time.perf_counter()
        with FrameSource.open(source) as frames:
            alone = frames.frame_count == 1
            if not alone:
                began = time.perf_counter()  # opening is no decoding, unless it is all there is
            for frame in frames:
                took = 1000 * (time.perf_counter() - began)
                # A video's first frame has come when it is open; its time would be none.
                if frame.index or alone or frames.kind != "video":
                    yield frame.image, took
                began = time.perf_counter()
