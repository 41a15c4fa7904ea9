"""Whether a face is good enough to be enrolled or compared, and if not, why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.runtime.faces import Face

__all__ = ["ENROLMENT", "PROBE", "Quality", "QualityLimits", "assess"]


@dataclass(frozen=True)
class QualityLimits:
    """What a face must keep to. Angles are not measured: turn and tilt are ratios of distances between landmarks.

    Attributes
    ----------
    min_eye_distance : float
        Pixels between the eyes in the frame.
    min_sharpness : float
        Of :attr:`Quality.sharpness`.
    min_brightness, max_brightness : float
        Mean grey level of the face's middle, 0 to 255.
    min_contrast : float
        Standard deviation of the grey levels there.
    max_clipped : float
        Fraction of its pixels that are black (to 4) or white (from 251).
    max_yaw : float
        The nose's way off the middle of the eyes, along the line of the eyes, in half eye distances: 0 is frontal, at
        1 the nose stands below an eye.
    min_pitch, max_pitch : float
        Where the nose stands between the eyes (0) and the mouth (1).
    max_roll_degrees : float
        Of the line of the eyes.
    min_score : float
        Of the finder.
    """

    min_eye_distance: float = 20.0
    min_sharpness: float = 0.005
    min_brightness: float = 40.0
    max_brightness: float = 220.0
    min_contrast: float = 12.0
    max_clipped: float = 0.3
    max_yaw: float = 0.8
    min_pitch: float = 0.2
    max_pitch: float = 0.85
    max_roll_degrees: float = 35.0
    min_score: float = 0.5


PROBE = QualityLimits()
"""For faces at the door."""

ENROLMENT = QualityLimits(
    min_eye_distance=30.0,
    min_sharpness=0.01,
    max_clipped=0.2,
    min_contrast=18.0,
    max_yaw=0.5,
    min_pitch=0.3,
    max_pitch=0.75,
    max_roll_degrees=20.0,
)
"""For faces to be enrolled: a template is used for years."""


@dataclass(frozen=True)
class Quality:
    """What was measured of a face, and what it fails in.

    Attributes
    ----------
    eye_distance, sharpness, brightness, contrast, clipped, yaw, pitch, roll_degrees : float
        As in :class:`QualityLimits`. Sharpness is the power of the aligned face's Laplacian in that of the face: it
        does not depend on the contrast, and falls with blur of whatever kind. A face that is enlarged is blurred, too.
        Of 300 faces of LFW 1 % are below 0.009; blurred by 2.5 pixels 97 % are below 0.01, by 4 all are below 0.005.
    reasons : tuple of str
        Each as half a sentence; empty if the face is good enough.
    """

    eye_distance: float
    sharpness: float
    brightness: float
    contrast: float
    clipped: float
    yaw: float
    pitch: float
    roll_degrees: float
    reasons: tuple[str, ...] = ()

    @property
    def good(self) -> bool:
        """Whether it is within the limits."""
        return not self.reasons

    @property
    def score(self) -> float:
        """0 to 1, to choose the best of several good faces of a person: sharp, large and frontal."""
        size = min(1.0, self.eye_distance / 60)
        return float(size * min(1.0, self.sharpness / 0.03) * max(0.0, 1 - abs(self.yaw)))


def assess(crop: NDArray[np.uint8], face: Face, limits: QualityLimits = PROBE) -> Quality:
    """Measure a face.

    Parameters
    ----------
    crop : ndarray of uint8, shape (112, 112, 3) or (112, 112)
        The aligned face, BGR or grey, before purification.
    face : Face
        Where it is in the frame.
    limits : QualityLimits
    """
    grey = np.asarray(cv2.cvtColor(crop, cv2.COLOR_BGR2GRAY) if crop.ndim == 3 else crop, np.float32)
    middle = grey[24:104, 20:92]
    contrast = float(middle.std())
    # Over a small blur, for a camera's noise is not sharpness.
    power = float(cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1.0), cv2.CV_32F)[24:104, 20:92].var())
    yaw, pitch, roll = _pose(face.landmarks)
    quality = Quality(
        eye_distance=float(np.hypot(*(face.landmarks[1] - face.landmarks[0]))),
        sharpness=power / max(contrast**2, 1.0),
        brightness=float(middle.mean()),
        contrast=contrast,
        clipped=float(((middle <= 4) | (middle >= 251)).mean()),
        yaw=yaw,
        pitch=pitch,
        roll_degrees=roll,
    )
    return Quality(**{**vars(quality), "reasons": tuple(_reasons(quality, face, limits))})


def _pose(landmarks: NDArray[np.float32]) -> tuple[float, float, float]:
    points = np.asarray(landmarks, np.float64)
    eyes, mouth = points[:2].mean(0), points[3:].mean(0)
    line = points[1] - points[0]
    length = max(float(np.hypot(*line)), 1e-6)
    along = line / length
    down = np.array([-along[1], along[0]])
    yaw = float((points[2] - eyes) @ along) / (length / 2)
    face_length = float((mouth - eyes) @ down)
    # Where the mouth is not below the eyes, the landmarks are no face.
    pitch = float((points[2] - eyes) @ down) / face_length if face_length > 1e-6 else -1.0
    return yaw, pitch, float(np.degrees(np.arctan2(line[1], line[0])))


def _reasons(found: Quality, face: Face, limits: QualityLimits) -> Sequence[str]:
    said: list[str] = []
    if found.eye_distance < limits.min_eye_distance:
        said.append(f"too small ({found.eye_distance:.0f} px between the eyes, {limits.min_eye_distance:.0f} wanted)")
    if found.brightness < limits.min_brightness:
        said.append(f"too dark (mean {found.brightness:.0f}, {limits.min_brightness:.0f} wanted)")
    if found.brightness > limits.max_brightness:
        said.append(f"too bright (mean {found.brightness:.0f}, at most {limits.max_brightness:.0f})")
    if found.contrast < limits.min_contrast:
        said.append(f"too little contrast ({found.contrast:.0f}, {limits.min_contrast:.0f} wanted)")
    elif found.sharpness < limits.min_sharpness:
        said.append(f"blurred (sharpness {found.sharpness:.3f}, {limits.min_sharpness:.3f} wanted)")
    if found.clipped > limits.max_clipped:
        said.append(f"over- or underexposed ({found.clipped:.0%} of its pixels are white or black)")
    if abs(found.yaw) > limits.max_yaw:
        said.append(f"turned to the side ({abs(found.yaw):.2f}, at most {limits.max_yaw:.2f})")
    if not limits.min_pitch <= found.pitch <= limits.max_pitch:
        said.append(f"tilted up or down ({found.pitch:.2f}, {limits.min_pitch:.2f} to {limits.max_pitch:.2f} wanted)")
    if abs(found.roll_degrees) > limits.max_roll_degrees:
        said.append(f"leaning ({abs(found.roll_degrees):.0f} degrees, at most {limits.max_roll_degrees:.0f})")
    if face.score < limits.min_score:
        said.append(f"not surely a face (score {face.score:.2f}, {limits.min_score:.2f} wanted)")
    return said
