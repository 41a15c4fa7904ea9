"""Things on a live face: glasses, a cap, a mask over mouth and nose. Drawn where the generic face has them."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.training.spoof.face_shape import FacePose
from immunecam.training.spoof.light import Picture

__all__ = ["cap", "face_mask", "glasses"]

_DEEPER = 0.1  # what is worn stands this far before the face, in distances between the eyes


def _outline(pose: FacePose, points: list[tuple[float, float, float]]) -> NDArray[np.int32]:
    """Pixels, in units of 1/16 for OpenCV's drawing, of points on the face."""
    return np.rint(16 * pose.project(np.array(points, float))).astype(np.int32)


def _ring(x: float, y: float, z: float, wide: float, high: float) -> list[tuple[float, float, float]]:
    """An outline between an ellipse and a rectangle."""
    angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    c, s = np.cos(angle), np.sin(angle)
    return [
        (x + wide * np.sign(a) * abs(a) ** 0.6, y + high * np.sign(b) * abs(b) ** 0.6, z)
        for a, b in zip(c, s, strict=True)
    ]


def _filled(light: Picture, outline: NDArray[np.int32], colour: Picture, alpha: float) -> Picture:
    """A shape over the picture, as opaque as `alpha`."""
    mask = np.zeros(light.shape[:2], np.uint8)
    cv2.fillPoly(mask, [outline], 255, cv2.LINE_AA, 4)
    part = (alpha / 255) * mask[..., None].astype(np.float32)
    result: Picture = light + part * (colour - light)
    return result


def glasses(rng: np.random.Generator, light: Picture, pose: FacePose) -> Picture:
    """Frames with clear or dark lenses."""
    wide, high = rng.uniform(0.3, 0.38), rng.uniform(0.19, 0.29)
    dark = rng.uniform() < 0.35
    frame = np.float32(rng.uniform(0.01, 0.12)) * np.array([1.2, 1.0, 0.8], np.float32)
    thick = max(1, round(pose.scale * rng.uniform(0.03, 0.08)))
    result = light.copy()
    for x in (-0.5, 0.5):
        ring = _outline(pose, _ring(x, 0.04, _DEEPER, wide, high))
        if dark:
            result = _filled(result, ring, frame * 0.5, rng.uniform(0.8, 0.95))
        else:  # glass takes a little light, and gives some of the room's back
            result = _filled(result, ring, np.full(3, 0.8, np.float32), rng.uniform(0.02, 0.12))
        cv2.polylines(result, [ring], True, frame.tolist(), thick, cv2.LINE_AA, 4)
    for line in (
        ((-0.5 + wide, 0.0), (0.5 - wide, 0.0)),
        ((-0.5 - wide, 0.0), (-1.05, 0.0)),
        ((0.5 + wide, 0.0), (1.05, 0.0)),
    ):
        behind = -0.7 if abs(line[1][0]) > 1 else _DEEPER
        ends = _outline(pose, [(*line[0], _DEEPER), (*line[1], behind)])
        cv2.polylines(result, [ends], False, frame.tolist(), thick, cv2.LINE_AA, 4)
    return result


def cap(rng: np.random.Generator, light: Picture, pose: FacePose) -> Picture:
    """Something on the head, down to the forehead."""
    brim = rng.uniform(-0.75, -0.55)
    colour = rng.uniform(0.01, 0.4, 3).astype(np.float32)
    dome = [(1.2 * np.cos(a), brim - 1.0 * np.sin(a), -0.5) for a in np.linspace(0, np.pi, 24)]
    edge = [(1.2 * np.cos(a), brim + 0.16 * np.sin(a), -0.5 + 0.5 * np.sin(a)) for a in np.linspace(np.pi, 0, 24)]
    result = _filled(light, _outline(pose, dome + edge), colour, 1.0)
    cv2.polylines(
        result, [_outline(pose, edge)], False, (0.5 * colour).tolist(), max(1, round(0.05 * pose.scale)), 16, 4
    )
    return result


def face_mask(rng: np.random.Generator, light: Picture, pose: FacePose) -> Picture:
    """A mask over nose, mouth and chin, with pleats."""
    colour = (rng.uniform(0.5, 0.9) if rng.uniform() < 0.7 else 0.03) * rng.uniform(0.7, 1.1, 3).astype(np.float32)
    top = rng.uniform(0.25, 0.4)
    ring = [(-0.95, 0.35, -0.5), (-0.4, top + 0.05, 0.0), (0.0, top, 0.42), (0.4, top + 0.05, 0.0), (0.95, 0.35, -0.5)]
    ring += [(0.85, 1.2, -0.4), (0.4, 1.72, -0.2), (0.0, 1.82, -0.1), (-0.4, 1.72, -0.2), (-0.85, 1.2, -0.4)]
    result = _filled(light, _outline(pose, ring), colour, 1.0)
    for y in (0.75, 1.0, 1.25):
        pleat = _outline(pose, [(-0.85, y, -0.4), (0.0, y + 0.05, 0.15), (0.85, y, -0.4)])
        cv2.polylines(result, [pleat], False, (0.8 * colour).tolist(), 1, cv2.LINE_AA, 4)
    return result
