"""What is around a spoof: the wall or room behind, the fingers that hold it, and the lamps that it mirrors."""

from __future__ import annotations

import math

import cv2
import numpy as np

from immunecam.training.spoof.colouring import skin_tint
from immunecam.training.spoof.light import Picture, blob, field
from immunecam.training.spoof.sheet import Sheet

__all__ = ["backdrop", "fingers", "glare"]


def backdrop(rng: np.random.Generator, side: int, room: Picture | None) -> Picture:
    """(side, side, 3) linear light: a room out of focus, or else a wall."""
    if room is not None and rng.uniform() < 0.7:
        large = cv2.resize(room, (side, side), interpolation=cv2.INTER_CUBIC)
        return np.clip(cv2.GaussianBlur(large, (0, 0), rng.uniform(1, 6)), 0, 1)
    plaster = rng.uniform(0.1, 0.7) * rng.uniform(0.8, 1.2, 3).astype(np.float32)
    uneven = 1 + 0.08 * field(rng, side, 3) + rng.uniform(0, 0.04) * field(rng, side, side // 3)
    result: Picture = np.clip(plaster * uneven, 0, 1).astype(np.float32)
    return result


def glare(rng: np.random.Generator, sheet: Sheet, gloss: float) -> Picture:
    """(side, side, 3) light that a surface mirrors: a veil of the room and, often, a lamp or a window.

    Parameters
    ----------
    rng : Generator
    sheet : Sheet
        Its bend draws a lamp out.
    gloss : float
        About how bright a mirrored lamp is; matte paper 0.05, glass 0.25.
    """
    side = len(sheet.u)
    room = gloss * rng.uniform(0.05, 0.25) * np.clip(1 + 0.6 * field(rng, side, 2), 0, None)
    colour = np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.65, 1.05)], np.float32)
    light = room * np.ones(3, np.float32)
    for _ in range(int(rng.choice([0, 1, 2], p=[0.3, 0.5, 0.2]))):
        strength = gloss * rng.uniform(0.6, 2.5)
        x, y = rng.uniform(-1.4, 1.4), rng.uniform(-1.2, 1.9)
        if rng.uniform() < 0.4:  # a window
            wide, high = rng.uniform(0.3, 0.8), rng.uniform(0.4, 1.0)
            lean = rng.uniform(-0.4, 0.4)
            du, dv = sheet.u - x + lean * (sheet.v - y), sheet.v - y
            edge = 0.04 + 0.15 / (1 + 20 * gloss)
            lamp = _soft(wide - np.abs(du), edge) * _soft(high - np.abs(dv), edge)
            lamp = lamp * (1 - 0.8 * _soft(0.04 - np.abs(du), 0.03)) * (1 - 0.8 * _soft(0.04 - np.abs(dv), 0.03))
        else:
            reach = rng.uniform(0.25, 0.7) * (1 + 0.05 / gloss)
            lamp = np.exp(
                -(np.square((sheet.u - x) / reach) + np.square((sheet.v - y) / (reach * rng.uniform(0.5, 1))))
            )
        light = light + strength * lamp[..., None] * colour
    result: Picture = light.astype(np.float32)
    return result


def _soft(x: Picture, edge: float) -> Picture:
    """0 far below 0, 1 far above it."""
    result: Picture = np.clip(0.5 + 0.5 * x / edge, 0, 1)
    return result


def fingers(
    rng: np.random.Generator, scene: Picture, sheet: Sheet, frame: tuple[float, float, float, float], front: Picture
) -> tuple[Picture, Picture]:
    """The scene with a thumb over an edge of the sheet, or without one, and where it is: (side, side, 1) in [0, 1].

    Parameters
    ----------
    rng : Generator
    scene : ndarray
        (side, side, 3) linear light.
    sheet : Sheet
    frame : tuple of float
        Left, top, right, bottom of the sheet.
    front : ndarray
        (side, side, 1) light on it.
    """
    if rng.uniform() < 0.4:
        return scene, np.zeros_like(scene[..., :1])
    tint = rng.uniform(0.12, 0.5) * skin_tint(rng)
    edge = int(rng.integers(3))
    x, y = rng.uniform(frame[0], frame[2]), rng.uniform(0.3, frame[3])
    place, angle = [((frame[0], y), 0.3), ((frame[2], y), -0.3), ((x, frame[3]), math.pi / 2)][edge]
    seen = sheet.to_picture @ np.array([*place, 1.0])
    centre, angle = seen[:2] / seen[2], angle + rng.normal(0, 0.3)
    long, thick = rng.uniform(0.45, 0.7) * sheet.pixels, rng.uniform(0.16, 0.24) * sheet.pixels
    thumb = blob(len(scene), centre, (long, thick), angle, 0.08)[..., None]
    round_ = 0.55 + 0.45 * blob(len(scene), centre, (long, thick), angle, 1.2)[..., None]
    return scene + thumb * (tint * round_ * front - scene), thumb
