"""Made-up colour for grey pictures: skin, lips and surroundings get tints in the range of colour photographs."""

from __future__ import annotations

import numpy as np

from immunecam.training.spoof.face_shape import FacePose
from immunecam.training.spoof.light import Picture, blob, field, luminance

__all__ = ["coloured", "skin_tint"]

# Red and blue light of cheeks relative to luminance, of 145 colour photographs of faces: their 5th and 95th percentile.
_RED, _BLUE = (1.36, 2.10), (0.80, 0.35)


def skin_tint(rng: np.random.Generator) -> Picture:
    """(3,) RGB light of skin of luminance 1; what is redder is less blue, as in photographs."""
    place = 0.8 * rng.uniform()  # the reddest photographs are of warm lamps, which the camera draws
    red = _RED[0] + place * (_RED[1] - _RED[0])
    blue = _BLUE[0] + float(np.clip(place + rng.normal(0, 0.1), 0, 1)) * (_BLUE[1] - _BLUE[0])
    return np.array([red, (1 - 0.2126 * red - 0.0722 * blue) / 0.7152, blue], np.float32)


def coloured(rng: np.random.Generator, light: Picture, pose: FacePose) -> Picture:
    """A grey picture with a colour for the generic face, its lips, and what is around it; luminance stays.

    Parameters
    ----------
    rng : Generator
    light : ndarray
        (H, H, 3) linear light with equal channels, the face in the given pose.
    pose : FacePose

    Returns
    -------
    ndarray
        (H, H, 3) linear light.
    """
    side, grey = len(light), luminance(light)[..., None]
    head = pose.project(np.array([[0.0, 0.4, -0.1], [0.0, 1.17, 0.0], [0.0, 2.1, -0.3]]))
    skin = blob(side, head[0], (1.0 * pose.scale, 1.45 * pose.scale), 0.0, 0.25)[..., None]
    neck = blob(side, head[2], (0.7 * pose.scale, 0.7 * pose.scale), 0.0, 0.5)[..., None]
    lips = blob(side, head[1], (0.4 * pose.scale, 0.15 * pose.scale), 0.0, 0.5)[..., None]
    skin = np.maximum(skin, neck) * np.clip(grey / 0.12 - 0.1, 0, 1)  # hair, brows and pupils are darker than skin
    around = 1 + 0.12 * field(rng, side, int(rng.integers(1, 4)), 3)
    around = around / luminance(around)[..., None].clip(0.3)
    tint = skin * skin_tint(rng) + (1 - skin) * around
    red = np.array([1.9, 0.76, 0.75], np.float32)
    tint = tint + 0.5 * lips * skin * (red - tint)
    result: Picture = (grey * tint).clip(0, 1).astype(np.float32)
    return result
