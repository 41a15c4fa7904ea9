"""Alignment and paste-back against the runtime's own on the CPU, and their times."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from immunecam.benchmarks.card.timing import time_replays
from immunecam.kernels.cuda import FrameKernels, FrameOnCard, Programs
from immunecam.kernels.cuda.frame_kernels import paste_region
from immunecam.kernels.cuda.staging import Staging

if TYPE_CHECKING:
    from immunecam.runtime.faces import Face

__all__ = ["check_frames", "frame_failures", "random_faces"]

_SIDE = 112
# OpenCV samples at 1/32 of a pixel and rounds more often: grey levels, on average and at most in 99 % of the pixels.
_MEAN, _MOST = 1.0, 12


def check_frames(programs: Programs, stream: Any, frame: NDArray[np.uint8], faces: int = 4) -> Iterator[dict[str, Any]]:
    """Faces at random places of a frame (H, W, 3), cut out and pasted back in both colour modes.

    Yields
    ------
    dict
        "kernel", "mean_difference_grey", "p99_difference_grey" and times of the launch alone.

    Raises
    ------
    ImportError
        Without OpenCV, which the runtime's alignment is made with.
    """
    from immunecam.runtime.faces import align, paste

    rng = np.random.default_rng()
    height, width = frame.shape[:2]
    found = random_faces(height, width, faces, rng)
    aligned = align(frame, found)
    back = np.stack([np.linalg.inv(np.vstack([m, [0, 0, 1]]))[:2] for m in aligned.matrices])
    purified = rng.integers(0, 256, (faces, 14, 14), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    kernels = FrameKernels(programs, stream=stream, max_faces=faces)
    memory = programs.device.memory_resource
    picture, crops, out = (
        memory.allocate(size, stream=stream) for size in (frame.size, purified.size, 4 * purified.size)
    )
    staging = {buffer.size: Staging(buffer.size) for buffer in (picture, crops, out)}
    staging[crops.size].put(purified, crops, stream=stream)
    place_ = FrameOnCard(int(picture.handle), width, height, 3 * width)

    staging[picture.size].put(frame, picture, stream=stream)
    kernels.align(place_, back, int(out.handle), stream=stream)
    cut = staging[out.size].get(out, stream=stream).view(np.float32).reshape(faces, _SIDE, _SIDE)
    timing = time_replays(stream, lambda i, to: kernels.launch_align(place_, faces, int(out.handle), stream=to))
    yield {"kernel": "align", "batch": faces, **_difference(127.5 * (cut - aligned.grey)), **timing.to_dict()}
    region = paste_region(place_, aligned.matrices)
    for colour in ("keep", "grey"):
        wanted = paste(frame, purified, aligned.matrices, colour=colour)  # type: ignore[arg-type]
        staging[picture.size].put(frame, picture, stream=stream)
        grey = colour == "grey"
        kernels.paste(place_, aligned.matrices, int(crops.handle), grey=grey, stream=stream)
        pasted = staging[picture.size].get(picture, stream=stream).reshape(frame.shape).astype(float)
        changed = (wanted != frame).any(2)
        row = {"kernel": f"paste, {colour}", "batch": faces, **_difference((pasted - wanted)[changed])}
        if region is not None:
            timing = time_replays(
                stream,
                lambda i, to, grey=grey: kernels.launch_paste(
                    place_, faces, region, int(crops.handle), grey=grey, stream=to
                ),
            )
            row |= timing.to_dict()
        yield row
    kernels.close()


def random_faces(height: int, width: int, count: int, rng: np.random.Generator) -> list[Face]:
    """Faces of half to twice the template's size, turned by up to half a radian, in a frame of that size."""
    from immunecam.runtime.faces import TEMPLATE, Face

    found = []
    for _ in range(count):
        turn = rng.uniform(0.5, 2.0) * np.exp(1j * rng.uniform(-0.5, 0.5))
        place = complex(rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height)
        points = (TEMPLATE[:, 0] - 56 + 1j * (TEMPLATE[:, 1] - 56)) * turn + place
        landmarks = np.stack([points.real, points.imag], 1).astype(np.float32)
        found.append(Face(np.array([0, 0, width, height], np.float32), landmarks, 1.0))
    return found


def frame_failures(row: dict[str, Any]) -> list[str]:
    """What is wrong with a row, if anything."""
    found = []
    if row["mean_difference_grey"] > _MEAN:
        found.append(f"{row['mean_difference_grey']:.2f} grey levels from the CPU on average, above {_MEAN}")
    if row["p99_difference_grey"] > _MOST:
        found.append(f"{row['p99_difference_grey']:.1f} grey levels from the CPU in 1 % of the pixels, above {_MOST}")
    return found


def _difference(values: NDArray[np.floating]) -> dict[str, float]:
    size = np.abs(np.nan_to_num(values, nan=255.0))
    return {
        "mean_difference_grey": round(float(size.mean()), 4),
        "p99_difference_grey": round(float(np.percentile(size, 99)), 3),
    }
