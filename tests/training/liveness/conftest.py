"""A small synthetic set of drawn faces."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from immunecam.training.liveness import LivenessSet, synthetic_set
from immunecam.training.spoof import FacePictures
from immunecam.training.spoof.pictures import TEMPLATE


@pytest.fixture(scope="session")
def pictures() -> FacePictures:
    """Four ovals with eyes."""
    data = []
    for number in range(4):
        face = np.full((112, 112, 3), 40 + 30 * number, np.uint8)
        cv2.ellipse(face, (56, 68), (38, 52), 0, 0, 360, (120, 150, 190 + 10 * number), -1, cv2.LINE_AA)
        for x, y in TEMPLATE:
            cv2.circle(face, (round(x), round(y)), 4, (20, 20, 30), -1, cv2.LINE_AA)
        data.append(cv2.imencode(".png", face)[1].tobytes())
    return FacePictures(tuple(data), tuple(f"{n}.png" for n in range(4)), np.stack([TEMPLATE] * 4))


@pytest.fixture(scope="session")
def small_set(pictures: FacePictures) -> LivenessSet:
    """Forty faces of 64 px."""
    torch.set_num_threads(1)
    return synthetic_set(pictures, 40, side=64)
