"""Reading and writing one still picture, with the checks that a decoder leaves out."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError

__all__ = ["PICTURE_SUFFIXES", "encode_picture", "read_picture"]

PICTURE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")


def read_picture(path: Path) -> NDArray[np.uint8]:
    """A picture as (H, W, 3) uint8 BGR; grey, 16-bit and transparent ones are converted, EXIF turns are applied.

    Raises
    ------
    InputError
        If the file is missing, empty, cut short, or no picture.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"the picture {str(path)!r} cannot be read ({error.strerror}): check the path") from None
    if not data:
        raise InputError(f"the picture {str(path)!r} has zero bytes: replace it")
    if _cut_short(data):
        # Decoders fill what is missing with grey, and a grey half face must not pass for a face.
        raise InputError(f"the picture {str(path)!r} is cut short or damaged ({len(data)} bytes): copy it again")
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # such as more pixels than OpenCV takes
        image = None
    if image is None:
        raise InputError(f"{str(path)!r} is not a picture that can be decoded: give {', '.join(PICTURE_SUFFIXES)}")
    return np.asarray(image, np.uint8)


def encode_picture(image: NDArray[np.uint8], suffix: str) -> bytes:
    """The content of a picture file; JPEG at quality 95.

    Raises
    ------
    InputError
        If OpenCV cannot write that format.
    """
    options = [cv2.IMWRITE_JPEG_QUALITY, 95] if suffix.lower() in (".jpg", ".jpeg") else []
    try:
        done, data = cv2.imencode(suffix, image, options)
    except cv2.error:
        done = False
    if not done:
        raise InputError(f"a picture cannot be written as {suffix!r}: use .png or .jpg")
    return data.tobytes()


def _cut_short(data: bytes) -> bool:
    """Whether a JPEG lacks its end or a PNG is not whole; other formats are left to the decoder."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return not _png_is_whole(data)
    if not data.startswith(b"\xff\xd8"):
        return False
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:  # to the start of scan, past an EXIF thumbnail
        marker = data[position + 1]
        if marker == 0xDA:
            return data.find(b"\xff\xd9", position) < 0
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD7:
            position += 1 if marker == 0xFF else 2
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return True


def _png_is_whole(data: bytes) -> bool:
    """Whether every chunk up to the last is there and has its checksum (PNG specification, section 5)."""
    position = 8
    while position + 12 <= len(data):
        end = position + 8 + int.from_bytes(data[position : position + 4], "big")
        if zlib.crc32(data[position + 4 : end]).to_bytes(4, "big") != data[end : end + 4]:
            return False
        if data[position + 4 : position + 8] == b"IEND":
            return True
        position = end + 4
    return False
