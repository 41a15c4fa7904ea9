"""How old a camera's frames are when they are purified, at the camera's own rate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from immunecam.benchmarks.latency.percentiles import told_percentiles
from immunecam.benchmarks.latency.worker_process import WorkerProcess
from immunecam.errors import UsageError
from immunecam.runtime.frames import FrameSource

__all__ = ["RATE", "live_row"]

RATE = 30.0
"""Frames a second of the camera."""

_SETTLING_S = 1.0


def live_row(specification: Mapping[str, Any], bundle: str, seconds: float) -> dict[str, Any] | None:
    """Be a camera for so many seconds, in a process of its own.

    An age runs from the end of decoding: what a real camera, its network and a decoder's own delay take comes on top.

    Parameters
    ----------
    specification : mapping
        Of a process whose form is "live", see :class:`immunecam.benchmarks.latency.live_work.Work`; the speed is set
        here.
    bundle : str
        Its name.
    seconds : float
        After one second that is not counted.

    Returns
    -------
    dict or None
        Frames that came, that were dropped, and that were purified, searches, and percentiles of age; None where the
        source is no video.
    """
    if not seconds > 0:
        raise UsageError(f"the live part takes {seconds:g} s, but it must take more than 0")
    with FrameSource.open(specification["source"]) as clip:
        if clip.kind != "video" or clip.frame_count == 1:
            return None
        speed = RATE / clip.fps
    with WorkerProcess({**specification, "speed": speed}) as process:
        before = process.measure(1, _SETTLING_S).about
        block = process.measure(1, seconds)
    ages = block.stages_ms["age"]
    return {
        "bundle": bundle,
        "provider": block.about["provider"],
        "threads": specification["threads"],
        "frames_per_s": RATE,
        "width": block.about["width"],
        "height": block.about["height"],
        "seconds": seconds,
        **{name: block.about[name] - before[name] for name in ("came", "dropped")},
        "purified": len(ages),
        "faces": block.faces,
        "searches": block.about["searches"] - before["searches"],
        **told_percentiles("age", ages),
        **told_percentiles("busy", block.stages_ms["total"]),
        "peak_memory_mib": None if block.peak_memory_mib is None else round(block.peak_memory_mib, 1),
    }
