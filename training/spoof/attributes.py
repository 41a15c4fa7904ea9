"""What a live face's attributes are: measured from its pose and points, or put on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from immunecam.training.spoof.coverings import cap, face_mask, glasses
from immunecam.training.spoof.face_shape import FacePose
from immunecam.training.spoof.labels import ATTRIBUTES
from immunecam.training.spoof.light import Picture

__all__ = ["dressed", "measured"]

# Degrees from which an attribute is set. Detected points of upright faces (YuNet on LFW) have a pitch of about 6.
_TURNED, _TILTED, _UP, _DOWN = 15.0, 7.0, -3.0, 15.0
_WIDE = 0.9  # of a mouth; 5 % of the same faces have a wider one
_WORN = {"glasses": (0.2, glasses), "cap": (0.12, cap), "covered mouth": (0.12, face_mask)}


def measured(pose: FacePose, mouth_width: float) -> NDArray[np.bool_]:
    """(A,) bool: the attributes that five points tell.

    Parameters
    ----------
    pose : FacePose
        In the picture that is labelled.
    mouth_width : float
        In distances between the eyes, both foreshortened alike.
    """
    yaw, pitch, roll = pose.angles
    found = {
        "turned left": yaw < -_TURNED,
        "turned right": yaw > _TURNED,
        "looking up": pitch < _UP,
        "looking down": pitch > _DOWN,
        "tilted": abs(roll) > _TILTED,
        "wide mouth": mouth_width > _WIDE,
    }
    return np.array([found.get(name, False) for name in ATTRIBUTES])


def dressed(rng: np.random.Generator, light: Picture, pose: FacePose) -> tuple[Picture, NDArray[np.bool_]]:
    """The face with what it was drawn to wear, and (A,) bool that says what."""
    worn = np.zeros(len(ATTRIBUTES), bool)
    for name, (share, put_on) in _WORN.items():
        if rng.uniform() < share:
            light = put_on(rng, light, pose)
            worn[ATTRIBUTES.index(name)] = True
    return light, worn
