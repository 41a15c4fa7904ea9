"""Pictures from somebody who is not trusted: size and end are known before a decoder is asked."""

from __future__ import annotations

import struct
import time
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from immunecam.errors import InputError
from immunecam.runtime.frames.picture import decode_picture
from immunecam.runtime.frames.picture_header import read_header

LIMIT = 10**6


def coded(suffix: str, height: int = 37, width: int = 53, options: tuple[int, ...] = ()) -> bytes:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return cv2.imencode(suffix, image, list(options))[1].tobytes()


def png(width: int, height: int) -> bytes:
    """A PNG of that size by its head, with next to nothing in it."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"\0" * 10))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + data + chunk(b"IEND", b"")


KINDS = {
    "png": (".png", ()),
    "jpeg": (".jpg", ()),
    "progressive jpeg": (".jpg", (cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
    "jpeg with restarts": (".jpg", (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)),
    "lossy webp": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 80)),
    "lossless webp": (".webp", (cv2.IMWRITE_WEBP_QUALITY, 101)),
    "bmp": (".bmp", ()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_coder_writes_is_read_to_its_end(kind):
    suffix, options = KINDS[kind]
    data = coded(suffix, options=options)
    header = read_header(data)
    assert (header.width, header.height, header.end) == (53, 37, len(data))
    assert header.format.lower() in kind
    assert decode_picture(data, max_pixels=37 * 53).shape == (37, 53, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_with_something_behind_it_is_refused(kind):
    suffix, options = KINDS[kind]
    data = coded(suffix, options=options)
    for tail in (b"PK\x03\x04 an archive", b"<script>alert(1)</script>", b"\0", data):
        with pytest.raises(InputError, match=rf"{len(tail)} bytes follow it: send the picture alone$"):
            decode_picture(data + tail, max_pixels=LIMIT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.9, 0.999])
def test_a_cut_picture_is_refused(kind, share):
    suffix, options = KINDS[kind]
    data = coded(suffix, options=options)
    with pytest.raises(InputError, match=r"the picture .*(cut short|no picture|zero bytes)"):
        decode_picture(data[: int(len(data) * share)], max_pixels=LIMIT)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (png(0, 0), "is 0x0, which has no pixels"),
        (png(5, 0), "is 5x0, which has no pixels"),
        (png(100_000, 100_000), "is 100000x100000, but it may have 1000000 pixels at most"),
        (png(100_000, 100_000)[:50], "is 100000x100000"),
        (png(1001, 1000), "is 1001x1000, but"),
        (png(50, 50), "is a PNG by its head, but cannot be decoded"),
        (b"\xff\xd8\xff\xc0\x00\x11\x08" + b"\0\0\0\0" + b"\x03" + b"\0" * 9 + b"\xff\xd9", "is 0x0"),
        (b"BM" + struct.pack("<IIIIii", 54, 0, 54, 40, 100_000, -100_000), "is 100000x100000"),
        (b"%PDF-1.7 and so on", "begins with 25 50 44 46"),
        (b"", "has zero bytes"),
        (b"GIF89a" + b"\0" * 40, "no picture: send PNG or JPEG or WebP or BMP"),
        (b"RIFF\x24\0\0\0WAVEfmt " + b"\0" * 40, "no picture"),
    ],
)
def test_hostile_heads_are_refused_in_one_sentence(data, says):
    with pytest.raises(InputError, match=says) as caught:
        decode_picture(data, max_pixels=LIMIT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff" * 2**24,
        b"\xff\xd8\xff\xe0\x00\x02" + b"\xff\xe0\x00\x02" * 2**22,
        b"\xff\xd8\xff\xda\x00\x02" + b"\xff\x00" * 2**23,
        png(50, 50)[:33] + (b"\0\0\0\0tEXt" + b"\0" * 4) * 2**20,
    ],
)
def test_endless_heads_take_no_time(data):
    began = time.process_time()
    with pytest.raises(InputError, match="cut short or damaged"):
        read_header(data)
    assert time.process_time() - began < 0.5


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(KINDS)), st.integers(0, 200), st.binary(min_size=1, max_size=6))
def test_damage_is_refused_or_decoded_and_nothing_else(kind, where, damage):
    suffix, options = KINDS[kind]
    data = bytearray(coded(suffix, 9, 11, options))
    where %= len(data)
    data[where : where + len(damage)] = damage
    try:
        image = decode_picture(bytes(data), max_pixels=LIMIT)
    except InputError:
        return
    assert image.dtype == np.uint8
    assert image.shape[2] == 3
