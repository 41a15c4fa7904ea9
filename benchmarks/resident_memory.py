"""Resident memory of a process, and how it grows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["growth", "resident_bytes"]


def resident_bytes(process: int | str = "self") -> int:
    """Of a process by its number, or of this one."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def growth(at: NDArray[np.float64], resident: NDArray[np.float64]) -> tuple[float, float]:
    """Slope of resident memory, told in two ways.

    Parameters
    ----------
    at : ndarray of float64, shape (N,)
        Where memory was measured, in seconds, frames or whatever is to be blamed.
    resident : ndarray of float64, shape (N,)
        Bytes.

    Returns
    -------
    (float, float)
        Bytes for one unit of `at`. First the median slope of all pairs of points (Theil, 1950; Sen, 1968): a leak shows
        in it, and a step, as when ONNX Runtime meets a batch of a size that it has not seen before, does not. Then the
        slope by least squares, which takes steps for slopes. Both are 0 where all points lie at one place.
    """
    first, second = np.triu_indices(len(at), 1)
    apart = at[second] > at[first]
    pairs = (resident[second] - resident[first])[apart] / (at[second] - at[first])[apart]
    if not len(pairs):
        return 0.0, 0.0
    x, y = at - at.mean(), resident - resident.mean()
    return float(np.median(pairs)), float(x @ y / (x @ x))
