"""What the head of a picture says, read before a decoder is given any of it, and where the picture ends.

A picture from the network may promise 100000x100000 pixels in 60 bytes, or be a picture and an archive in one. A
decoder finds out when the memory is taken, or never; here neither costs more than a look at the structure. Formats by
their specifications: PNG (W3C, section 5), JPEG (ITU-T T.81, annex B), WebP (RFC 9649), BMP (as Windows defines it).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from immunecam.errors import InputError

__all__ = ["HEADER_FORMATS", "PictureHeader", "read_header"]

HEADER_FORMATS = ("PNG", "JPEG", "WebP", "BMP")

_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_PARTS = 20_000  # chunks or segments; a picture of 100 megapixels has fewer
_SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7]")


@dataclass(frozen=True)
class PictureHeader:
    """Format and size of a picture.

    Attributes
    ----------
    format : str
        One of `HEADER_FORMATS`.
    width, height : int
        Pixels, as they are stored: an EXIF turn may swap them.
    end : int
        Bytes of the picture. What lies behind is something else.
    """

    format: str
    width: int
    height: int
    end: int


def read_header(data: bytes, name: str = "the picture") -> PictureHeader:
    """Format, size and end of a picture that is in memory.

    Parameters
    ----------
    data : bytes
        Content of the file.
    name : str
        What messages call it.

    Raises
    ------
    InputError
        If it is none of `HEADER_FORMATS`, or is cut short.
    """
    reader = next((reader for magic, reader in _READERS if data.startswith(magic)), None)
    if reader is None or (reader is _webp and data[8:12] != b"WEBP"):
        what = f"begins with {data[:8].hex(' ')}" if data else "has zero bytes"
        raise InputError(f"{name} {what}, which is no picture: send {' or '.join(HEADER_FORMATS)}")
    header = reader(data)
    if header is None:
        raise InputError(f"{name} is cut short or damaged ({len(data)} bytes): send it again")
    return header


def _png(data: bytes) -> PictureHeader | None:
    if data[8:16] != b"\x00\x00\x00\rIHDR" or len(data) < 33:
        return None
    width, height = _big(data, 16, 4), _big(data, 20, 4)
    position = 8
    for _ in range(_MOST_PARTS):
        if position + 12 > len(data):
            break
        kind = data[position + 4 : position + 8]
        position += 12 + _big(data, position, 4)
        if kind == b"IEND":
            return PictureHeader("PNG", width, height, position) if position <= len(data) else None
    # The size is the first thing to be told, whatever else is wrong.
    return PictureHeader("PNG", width, height, 0) if not (width and height) or width * height > 2**30 else None


def _jpeg(data: bytes) -> PictureHeader | None:
    width, height, position = -1, -1, 2
    for _ in range(_MOST_PARTS):
        if position + 2 > len(data) or data[position] != 0xFF:
            return None
        marker = data[position + 1]
        if marker == 0xD9:
            return PictureHeader("JPEG", width, height, position + 2) if width >= 0 else None
        if marker == 0xFF or marker == 0x01 or 0xD0 <= marker <= 0xD8:
            position += 1 if marker == 0xFF else 2
            continue
        # A start of frame; C4, C8 and CC are tables and extensions.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if position + 9 > len(data) or width >= 0:
                return None
            height, width = _big(data, position + 5, 2), _big(data, position + 7, 2)
            if not (width and height):
                return PictureHeader("JPEG", width, height, 0)
        length = _big(data, position + 2, 2)
        if length < 2:
            return None
        position += 2 + length
        if marker == 0xDA:
            position = _after_scan(data, position)
    return None


def _after_scan(data: bytes, position: int) -> int:
    """Where the entropy-coded bytes end: at a marker that is neither a stuffed byte nor a restart."""
    found = _SCAN_END.search(data, position)
    return len(data) if found is None else found.start()


def _webp(data: bytes) -> PictureHeader | None:
    kind, end = data[12:16], 8 + int.from_bytes(data[4:8], "little")
    end += end % 2
    if len(data) < 30:
        return None
    if kind == b"VP8 ":
        if data[23:26] != b"\x9d\x01\x2a":
            return None
        width, height = _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
    elif kind == b"VP8L":
        bits = _little(data, 21, 4)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8X":
        width, height = _little(data, 24, 3) + 1, _little(data, 27, 3) + 1
    else:
        return None
    return PictureHeader("WebP", width, height, end) if end <= len(data) or width * height > 2**30 else None


def _bmp(data: bytes) -> PictureHeader | None:
    size, head = _little(data, 2, 4), _little(data, 14, 4)
    if len(data) < 26:
        return None
    if head == 12:
        width, height = _little(data, 18, 2), _little(data, 20, 2)
    elif head >= 40:
        width = int.from_bytes(data[18:22], "little", signed=True)
        height = abs(int.from_bytes(data[22:26], "little", signed=True))  # negative: rows from the top
    else:
        return None
    width = max(width, 0)
    return PictureHeader("BMP", width, height, size) if size <= len(data) or width * height > 2**30 else None


def _big(data: bytes, start: int, count: int) -> int:
    return int.from_bytes(data[start : start + count], "big")


def _little(data: bytes, start: int, count: int) -> int:
    return int.from_bytes(data[start : start + count], "little")


_READERS = ((_PNG, _png), (b"\xff\xd8\xff", _jpeg), (b"RIFF", _webp), (b"BM", _bmp))
