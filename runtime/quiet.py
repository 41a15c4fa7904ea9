"""OpenCV and FFmpeg print what goes wrong; here it is raised, so the printing is switched off."""

from __future__ import annotations

import os

# FFmpeg's level is read from the environment when the first capture or writer is made.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

import cv2

__all__ = ["silence"]


def silence() -> None:
    """Switch OpenCV's own log off, unless the environment asks for a level."""
    if "OPENCV_LOG_LEVEL" not in os.environ:
        # Early OpenCV 4 has the first only, the newest the second only; level 0 is silence.
        set_level = cv2.setLogLevel if hasattr(cv2, "setLogLevel") else cv2.utils.logging.setLogLevel
        set_level(0)
