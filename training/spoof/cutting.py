"""Masks cut out of a print: the whole face with holes, or a region of it."""

from __future__ import annotations

import math

import numpy as np

from immunecam.training.spoof.light import Picture
from immunecam.training.spoof.sheet import Sheet

__all__ = ["REGIONS", "cut_out"]

REGIONS = ("face", "eyes", "nose and mouth")


def cut_out(rng: np.random.Generator, sheet: Sheet, region: str, margin: float = 0.0) -> Picture:
    """(side, side) in [0, 1]: 1 where paper is left.

    Parameters
    ----------
    rng : Generator
    sheet : Sheet
        Of the print, whose face is turned to the viewer.
    region : str
        "face" leaves it whole but for holes for the eyes (and sometimes the mouth), "eyes" and "nose and mouth" leave
        a part of it.
    margin : float
        By how much more is left, in distances between the eyes; the rim that the paper's thickness shows.

    Raises
    ------
    ValueError
        For another region.
    """
    if region not in REGIONS:
        raise ValueError(f"region must be one of {', '.join(REGIONS)}, got {region!r}")

    def inside(x: float, y: float, wide: float, high: float, uneven: float) -> Picture:
        du, dv = (sheet.u - x) / wide, (sheet.v - y) / high
        radius = np.sqrt(np.square(du) + np.square(dv))
        turn = np.arctan2(dv, du)
        wave = sum(
            rng.normal(0, uneven / n) * np.cos(n * turn + rng.uniform(0, 2 * math.pi)) for n in (2, 3, 5)
        )  # scissors
        cut: Picture = np.clip((1 + wave - radius) * min(wide, high) * sheet.pixels + 0.5, 0, 1)
        return cut

    if region == "face":
        left = inside(0.0, 0.5, 1.05 + margin, 1.45 + margin, 0.03)
        for x in (-0.5, 0.5):
            left = left * (1 - inside(x, 0.0, 0.21 - margin, 0.11 - margin, 0.06))
        if rng.uniform() < 0.3:
            left = left * (1 - inside(0.0, 1.17, 0.32 - margin, 0.1 - margin, 0.06))
        return left
    if region == "eyes":
        return inside(0.0, -0.02, 1.0 + margin, rng.uniform(0.4, 0.65) + margin, 0.05)
    return inside(0.0, 0.95, rng.uniform(0.65, 0.9) + margin, rng.uniform(0.6, 0.75) + margin, 0.05)
