"""Reading and writing one still picture, with the checks that a decoder leaves out."""

from __future__ import annotations

import zlib
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from immunecam.errors import InputError
from immunecam.runtime.frames.picture_header import read_header

__all__ = ["PICTURE_SUFFIXES", "decode_picture", "encode_picture", "read_picture"]

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
    image = _decoded(data)
    if image is None:
        raise InputError(f"{str(path)!r} is not a picture that can be decoded: give {', '.join(PICTURE_SUFFIXES)}")
    return image


def decode_picture(data: bytes, *, max_pixels: int, name: str = "the picture") -> NDArray[np.uint8]:
    """A picture from somebody who is not trusted, as (H, W, 3) uint8 BGR; otherwise as :func:`read_picture`.

    Its head is read before a decoder sees it, and nothing but the picture may be in it: what is a picture to one
    program and an archive or a page to another is refused.

    Parameters
    ----------
    data : bytes
        Content of a PNG, JPEG, WebP or BMP file.
    max_pixels : int
        Most pixels, width times height.
    name : str
        What messages call it.

    Raises
    ------
    InputError
        If it is no such picture, has no pixels or too many, is cut short, or something follows it.
    """
    header = read_header(data, name)
    size = f"{header.width}x{header.height}"
    if not (header.width and header.height):
        raise InputError(f"{name} is {size}, which has no pixels: send another")
    if header.width * header.height > max_pixels:
        raise InputError(f"{name} is {size}, but it may have {max_pixels} pixels at most: make it smaller")
    if header.end != len(data):
        raise InputError(
            f"{name} is a {header.format} of {header.end} bytes, but {len(data) - header.end} bytes follow it: send "
            "the picture alone"
        )
    if _cut_short(data):
        raise InputError(f"{name} is cut short or damaged ({len(data)} bytes): send it again")
    image = _decoded(data)
    if image is None or image.shape[0] * image.shape[1] != header.width * header.height:
        raise InputError(f"{name} is a {header.format} by its head, but cannot be decoded as one: send it again")
    return image


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


def _decoded(data: bytes) -> NDArray[np.uint8] | None:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:  # such as more pixels than OpenCV takes
        return None
    return None if image is None else np.asarray(image, np.uint8)


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
