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
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
