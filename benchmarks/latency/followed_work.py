"""Frames of a source whose faces are followed from frame to frame, as `immunecam purify --follow` does."""

from __future__ import annotations

from immunecam.benchmarks.latency import frames_work
from immunecam.runtime.faces import FaceFinder, FollowingFinder

__all__ = ["Work"]


class Work(frames_work.Work):
    """As that of whole frames; every frame's search or look counts to the frame in which it is made."""

    def _finder(self) -> FaceFinder:
        return FollowingFinder(background=False)
