"""Whether the camera gives frames, how many, and whether this user may open it."""

from __future__ import annotations

import grp
import os
import re
from itertools import pairwise
from pathlib import Path

from immunecam.errors import ImmuneCamError
from immunecam.runtime.device.finding import Finding
from immunecam.runtime.frames import FrameSource, LiveSource

__all__ = ["check_camera", "check_video_devices"]

_PATIENCE_S = 5.0  # for the next frame
_SETTLE_S = 1.0  # decoders hand out the frames at once that they looked at to know the stream


def check_camera(source: str | None, seconds: float) -> Finding:
    """Open a source and count its frames.

    Parameters
    ----------
    source : str or None
        As :meth:`FrameSource.open` takes it.
    seconds : float
        How long to look.
    """
    part = "camera"
    if source is None:
        return Finding(part, "unknown", "not tried", "name the camera by --source")
    seen: list[tuple[int, float]] = []
    try:
        with FrameSource.open(source) as opened:
            shape = f"{opened.width}x{opened.height}"
            if not isinstance(opened, LiveSource):
                why = f"{opened.name} is a {opened.kind} and no camera"
                return Finding(part, "note", why, "give --source the camera")
            settled = None
            while (frame := opened.read(_PATIENCE_S)) is not None:
                settled = settled or frame.timestamp_s + _SETTLE_S
                if frame.timestamp_s < settled:
                    continue
                seen.append((frame.index, frame.timestamp_s))
                if frame.timestamp_s - seen[0][1] >= seconds:
                    break
            status = opened.status
    except ImmuneCamError as error:
        return Finding(part, "bad", str(error), "check cable, address and rights, then run it again")
    took = seen[-1][1] - seen[0][1] if seen else 0.0
    if took < seconds:
        why = f"it opens ({shape}), but gave {len(seen)} frames and then no more: {status}"
        return Finding(part, "bad", why, "check cable and power", {"frames": len(seen)})
    # Frames that came while one was looked at are dropped, but counted by their index.
    rate, gap = (seen[-1][0] - seen[0][0]) / took, max(b[1] - a[1] for a, b in pairwise(seen))
    numbers = {
        "width": opened.width,
        "height": opened.height,
        "frames_per_s": round(rate, 2),
        "told_frames_per_s": round(opened.fps, 2) if opened.kind == "camera" else None,
        "longest_gap_ms": round(1000 * gap, 1),
        "reconnections": status.reconnections,
    }
    why = f"{shape}, {rate:.1f} frames/s in {took:.1f} s, longest gap {1000 * gap:.0f} ms"
    if status.reconnections:
        why += f", lost {status.reconnections} times meanwhile"
        return Finding(part, "note", why, "check cable, power and network", numbers)
    if opened.kind == "camera" and rate < opened.fps / 2:  # a stream tells no rate that could be believed
        todo = "give it light, for dark pictures are exposed longer; else fewer pixels, or a port of its own"
        return Finding(part, "note", f"{why}, but it says {opened.fps:.0f} frames/s of itself", todo, numbers)
    return Finding(part, "good", why, "", numbers)


def check_video_devices(source: str | None, *, root: Path = Path("/")) -> Finding:
    """Whether there are /dev/video*, and whether this user may read and write them."""
    part = "video devices"
    devices = sorted((root / "dev").glob("video*"))
    wanted = re.fullmatch(r"(?:/dev/video)?(\d+)", source or "")
    names = ", ".join(device.name for device in devices)
    if wanted and (own := root / "dev" / f"video{wanted.group(1)}") not in devices:
        found = f"only {names}" if devices else "no /dev/video* at all"
        return Finding(part, "bad", f"/dev/{own.name} is missing; there is {found}", "plug the camera in, see dmesg")
    if not devices:
        return Finding(part, "unknown", "no /dev/video* here; a camera in the network needs none")
    relevant = [own] if wanted else devices
    closed = [device for device in relevant if not os.access(device, os.R_OK | os.W_OK, effective_ids=True)]
    if closed:
        group = _group(closed[0])
        why = f"this user may not open {', '.join(device.name for device in closed)} (group {group})"
        return Finding(part, "bad", why, f"SupplementaryGroups={group} in the unit, or usermod -aG {group} USER")
    return Finding(part, "good", f"{names}: this user may open {'it' if len(relevant) == 1 else 'them'}")


def _group(path: Path) -> str:
    number = path.stat().st_gid
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
