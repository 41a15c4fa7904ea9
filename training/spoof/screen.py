"""Screens: light of coloured stripes in a grid, with a screen's own contrast, colour and black."""

from __future__ import annotations

import math

import cv2
import numpy as np

from immunecam.training.spoof.light import GAMMA, Picture, displayed
from immunecam.training.spoof.sheet import Sheet

__all__ = ["bands", "shown"]

# Light of white by colour temperature, from 5000 K to 10000 K, relative to green.
_WARM, _COLD = np.array([1.12, 1.0, 0.78], np.float32), np.array([0.82, 1.0, 1.22], np.float32)


def shown(rng: np.random.Generator, light: Picture, sheet: Sheet) -> Picture:
    """(side, side, 3) light of a picture on a screen; its brightness does not depend on the room's.

    The grid of the screen's pixels, 0.8 to 2.6 of the camera's pixels apart, is sampled where the camera's pixels are
    and not smoothed before: where both are about as fine, they beat, which is the moire of a filmed screen.
    """
    tone = cv2.pow(displayed(light), GAMMA * rng.uniform(0.85, 1.35))
    place = rng.uniform()
    white = rng.uniform(0.75, 1.25) * (place * _WARM + (1 - place) * _COLD)
    black = rng.uniform(0.004, 0.04)
    emitted = (black + (1 - black) * tone) * white
    grid = 2 * math.pi * sheet.pixels / rng.uniform(0.8, 2.6)
    across, down = grid * sheet.u, grid * sheet.v
    depth, rows = rng.uniform(0.15, 0.6), 1 + rng.uniform(0.1, 0.35) * np.cos(down)
    stripes = np.stack([1 + depth * np.cos(across - 2 * math.pi * n / 3) for n in range(3)], -1)
    result: Picture = (emitted * stripes * rows[..., None]).astype(np.float32)
    return result


def bands(rng: np.random.Generator, side: int) -> Picture:
    """(side, 1, 1) factor near 1: rows that a rolling shutter caught at other moments of the screen's refresh."""
    rows = np.arange(side, dtype=np.float32) / side
    wave = np.sin(2 * math.pi * (rows * rng.uniform(0.6, 4.0) + rng.uniform()))
    depth = rng.uniform(0.03, 0.22)
    result: Picture = (1 + depth * np.clip(wave * rng.uniform(1, 4), -1, 1))[:, None, None].astype(np.float32)
    return result
