"""A set of synthetic live and spoofed faces, made once and kept in a file."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2
import numpy as np
import torch

from immunecam.errors import UsageError
from immunecam.models.liveness_loss import LivenessLabels
from immunecam.training.liveness.faces import LivenessSet
from immunecam.training.spoof import FacePictures, SpoofMaker
from immunecam.training.spoof.labels import ATTRIBUTES, ILLUMINATIONS, SPOOF_TYPES

__all__ = ["synthetic_set"]


def synthetic_set(
    pictures: FacePictures,
    count: int,
    *,
    side: int = 112,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> LivenessSet:
    """Faces number 0 to `count` of a `SpoofMaker`.

    Parameters
    ----------
    pictures : FacePictures
        Their faces become live ones, and pictures on paper and screens.
    count : int
        At least 1; two fifths of many are live.
    side : int
        Of what is made.
    seed : int
        The same pictures, side and seed give the same faces; with a larger `count`, more of them.
    threads : int, optional
        Default: as many as there are cores. The faces do not depend on it.
    progress : callable, optional
        Called with (done, total).

    Raises
    ------
    UsageError
        If `count` is below 1.
    """
    if count < 1:
        raise UsageError(f"{count} synthetic faces were asked for: ask for 1 or more")
    maker = SpoofMaker(pictures, side, seed)
    pixels = np.empty((count, 3, side, side), np.uint8)
    columns: dict[str, list[object]] = {
        name: [] for name in ("live", "attributes", "spoof_type", "illumination", "depth", "reflection")
    }
    usual = cv2.getNumThreads()
    cv2.setNumThreads(1)  # ours are enough, and OpenCV's would wait for each other
    try:
        with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
            for number, face in enumerate(pool.map(maker.make, range(count))):
                pixels[number] = face.pixels.transpose(2, 0, 1)
                columns["live"].append(int(face.spoof))
                columns["attributes"].append(face.attributes)
                columns["spoof_type"].append(face.spoof_type)
                columns["illumination"].append(face.illumination)
                columns["depth"].append(face.depth[None])
                columns["reflection"].append(face.reflection.transpose(2, 0, 1))
                if progress is not None:
                    progress(number + 1, count)
    finally:
        cv2.setNumThreads(usual)
    whole = {name: np.array(column) for name, column in columns.items()}
    labels = LivenessLabels(
        torch.from_numpy(whole["live"].astype(np.int64)),
        torch.from_numpy(whole["attributes"].astype(np.float32)),
        torch.from_numpy(whole["spoof_type"].astype(np.int64)),
        torch.from_numpy(whole["illumination"].astype(np.int64)),
        torch.from_numpy(whole["depth"].astype(np.float32)),
        torch.from_numpy(whole["reflection"].astype(np.float32)),
    )
    origin = f"synthetic: seed {seed}, from {len(pictures)} pictures"
    return LivenessSet(torch.from_numpy(pixels), labels, ATTRIBUTES, SPOOF_TYPES, ILLUMINATIONS, origin)
