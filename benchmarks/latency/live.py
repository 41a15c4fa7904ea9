"""How old a camera's frames are when they are purified, at the camera's own rate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from immunecam.errors import UsageError
from immunecam.runtime.bundle import Bundle
from immunecam.runtime.faces import FollowingFinder, face_finder
from immunecam.runtime.frames import FrameSource, LiveSource
from immunecam.runtime.purifier import Purifier
from immunecam.runtime.report import percentiles_ms

__all__ = ["RATE", "live_row"]

RATE = 30.0
"""Frames a second of the camera."""

_SETTLING_S = 1.0


def live_row(bundle: Bundle, source: Path, provider: str, threads: int, seconds: float) -> dict[str, Any] | None:
    """Play a video again and again as a camera, and purify the newest frame, for so many seconds.

    Reading, searching and purifying overlap, as in `immunecam purify` on a camera; nothing is written. An age runs from
    the end of decoding: what a real camera, its network and a decoder's own delay take comes on top.

    Returns
    -------
    dict or None
        Frames that came, that were dropped, and that were purified, searches, and percentiles of age; None where the
        source is no video.
    """
    if not seconds > 0:
        raise UsageError(f"the live part takes {seconds:g} s, but it must take more than 0")
    with FrameSource.open(source) as clip:
        if clip.kind != "video" or clip.frame_count == 1:
            return None
        speed = RATE / clip.fps
    ages, busy, faces = [], [], 0
    with (
        Purifier.load(bundle, provider=provider, threads=threads) as purifier,
        FollowingFinder(face_finder()) as finder,
        LiveSource(source, repeat=True, speed=speed) as camera,
    ):
        began = time.monotonic()
        before = camera.status
        settled = False
        while time.monotonic() - began < _SETTLING_S + seconds:
            frame = camera.read(1.0)
            if frame is None:
                continue
            if not settled and time.monotonic() - began >= _SETTLING_S:
                settled, before, searched = True, camera.status, finder.searches
            start = time.perf_counter()
            result = purifier.purify_frame(frame.image, finder)
            if settled:
                busy.append(time.perf_counter() - start)
                ages.append(camera.age_s(frame))
                faces += len(result.faces)
        after = camera.status
        return {
            "bundle": bundle.name,
            "provider": purifier.provider,
            "threads": threads,
            "frames_per_s": RATE,
            "width": camera.width,
            "height": camera.height,
            "seconds": seconds,
            "came": after.frames - before.frames,
            "dropped": after.dropped - before.dropped,
            "purified": len(ages),
            "faces": faces,
            "searches": finder.searches - searched if settled else 0,
            **{f"age_{name}": value for name, value in percentiles_ms(ages).items()},
            **{f"busy_{name}": value for name, value in percentiles_ms(busy).items()},
        }
