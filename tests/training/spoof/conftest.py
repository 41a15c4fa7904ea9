"""Drawn faces: nobody's, but with eyes, nose and mouth where the template has them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from immunecam.training.spoof import FacePictures
from immunecam.training.spoof.pictures import TEMPLATE


def drawn_face(number: int, *, colour: bool = False) -> np.ndarray:
    """(112, 112, 3) uint8."""
    rng = np.random.default_rng(number)
    face = cv2.resize(rng.integers(30, 90, (6, 6, 3), np.uint8), (112, 112), interpolation=cv2.INTER_CUBIC)
    cv2.ellipse(face, (56, 68), (38, 52), 0, 0, 360, (130, 160, 200), -1, cv2.LINE_AA)
    for x, y in TEMPLATE[:2]:
        cv2.ellipse(face, (round(x), round(y)), (7, 4), 0, 0, 360, (250, 250, 250), -1, cv2.LINE_AA)
        cv2.circle(face, (round(x), round(y)), 3, (20, 20, 20), -1, cv2.LINE_AA)
    cv2.line(face, (56, 55), (56, 72), (90, 120, 170), 3, cv2.LINE_AA)
    cv2.ellipse(face, (56, 92), (15, 4), 0, 0, 360, (80, 80, 160), -1, cv2.LINE_AA)
    face = np.clip(face + rng.normal(0, 3, face.shape), 0, 255).astype(np.uint8)
    return face if colour else np.repeat(cv2.cvtColor(face, cv2.COLOR_BGR2GRAY)[..., None], 3, 2)


@pytest.fixture(scope="session")
def pictures() -> FacePictures:
    """Six faces, every other one in colour."""
    data = tuple(cv2.imencode(".png", drawn_face(n, colour=n % 2 == 1))[1].tobytes() for n in range(6))
    return FacePictures(data, tuple(f"p{n}/{n}.png" for n in range(6)), np.stack([TEMPLATE] * 6))
