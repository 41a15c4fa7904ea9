"""What a video file's own structure says: whether its end is missing, whether its frame count is exact, and its rate.

FFmpeg plays what it finds and reports no loss, and OpenCV's writer rounds a rate to three decimals. Both are settled
from a few fields of the file. Layouts: ISO/IEC 14496-12 (MP4, MOV), RFC 9559 (Matroska), Microsoft's AVI RIFF
reference.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

__all__ = ["expected_frames", "looks_like_text", "missing_bytes", "set_rate"]

_MP4_FIRST = (b"ftyp", b"moov", b"mdat", b"free", b"wide", b"skip")
_MATROSKA = b"\x1a\x45\xdf\xa3"
_MOOV_LIMIT = 256 << 20  # a header larger than this is not worth a check


def looks_like_text(path: Path) -> bool:
    """Whether a file begins as plain text, which FFmpeg would play as a film of a terminal."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head.startswith(b"YUV4MPEG2"):  # raw video under a line of text
        return False
    return bool(head) and not any(byte < 9 or (13 < byte < 32 and byte != 27) for byte in head) and _decodes(head)


def missing_bytes(path: Path) -> int:
    """How many bytes the file lacks at its end by its own account; 0 if none, or if the format does not tell."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        if head[4:8] in _MP4_FIRST:
            return max((end - size for _, _, end in _boxes(file, 0, size)), default=0)
        if head.startswith(_MATROSKA):
            return max(0, _segment_end(file) - size)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return max(0, _riff_end(file, size) - size)
    return 0


def expected_frames(path: Path, count: int) -> tuple[int, int] | None:
    """The least and the most frames that a whole file of this structure decodes to.

    Parameters
    ----------
    path : path
        Video file.
    count : int
        Frames by OpenCV's account.

    Returns
    -------
    tuple of int or None
        None where `count` is only OpenCV's product of duration and rate (Matroska, fragmented MP4, streams), which is
        far off in files of varying rate and proves nothing.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF" and head[8:12] == b"AVI ":
            return count - max(2, count // 100), count  # AVI also counts the empty chunks of frames it skipped
        if head[4:8] not in _MP4_FIRST:
            return None
        boxes = list(_boxes(file, 0, path.stat().st_size))
        moov = _read_moov(file, boxes)
    if moov is None or any(kind == b"moof" for kind, _, _ in boxes):
        return None
    return count - _hidden_by_edit_list(moov, count), count


def set_rate(path: Path, fps: float, frames: int) -> None:
    """Give a finished MP4, MOV, AVI or Matroska file of one track and constant rate its exact rate.

    Only numbers of fixed width are overwritten, so no byte moves. A layout that OpenCV's writers do not produce is
    left as it is.

    Parameters
    ----------
    path : path
        File written by OpenCV at about this rate.
    fps : float
        Frames a second, above 0.
    frames : int
        Number of frames in it.
    """
    rate = _rational(fps, frames)
    with path.open("r+b") as file:
        head = file.read(12)
        if head[4:8] in _MP4_FIRST:
            _set_mp4_rate(file, path.stat().st_size, rate, frames)
        elif head[:4] == b"RIFF":
            _set_avi_rate(file, rate)
        elif head.startswith(_MATROSKA):
            _set_matroska_rate(file, rate)


def _decodes(head: bytes) -> bool:
    try:
        head[:-4].decode("utf-8")  # the last character may be cut
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 8
    return True


def _rational(fps: float, frames: int) -> Fraction:
    """The rate as a fraction: n/1001 if it is one, and never so fine that frames * denominator leaves 32 bits."""
    limit = max(1001, min(1_000_000, (2**32 - 1) // max(1, frames)))
    for largest in (1, 1001, limit):
        rate = Fraction(fps).limit_denominator(largest)
        if abs(float(rate) - fps) <= 1e-9 * fps:
            break
    return rate


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start of the content, and end by its own account, of each MP4 box; the last may end past the file."""
    while start + 8 <= end:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        content = start + 8
        if length == 1:
            wide = file.read(8)
            if len(wide) < 8:
                return
            length, content = int.from_bytes(wide, "big"), start + 16
        elif length == 0:  # up to the end of the file
            length = end - start
        if length < content - start or not all(32 <= byte < 127 or byte == 0xA9 for byte in kind):
            return  # what follows is no box
        yield kind, content, start + length
        start += length


def _read_moov(file: BinaryIO, boxes: list[tuple[bytes, int, int]]) -> bytes | None:
    for kind, start, end in boxes:
        if kind == b"moov" and end - start <= _MOOV_LIMIT:
            file.seek(start)
            data = file.read(end - start)
            return data if len(data) == end - start else None
    return None


def _find(data: bytes | bytearray, path: bytes, start: int, end: int) -> tuple[int, int] | None:
    """Content (start, end) of the first box at a path such as b"mdia/mdhd" within data[start:end]."""
    kind, _, rest = path.partition(b"/")
    while start + 8 <= end:
        length = int.from_bytes(data[start : start + 4], "big")
        if length < 8 or start + length > end:
            return None
        if data[start + 4 : start + 8] == kind:
            return _find(data, rest, start + 8, start + length) if rest else (start + 8, start + length)
        start += length
    return None


def _video_track(data: bytes | bytearray) -> tuple[int, int] | None:
    start = 0
    while (found := _find(data, b"trak", start, len(data))) is not None:
        handler = _find(data, b"mdia/hdlr", *found)
        if handler is not None and data[handler[0] + 8 : handler[0] + 12] == b"vide":
            return found
        start = found[1]
    return None


def _clock(data: bytes | bytearray, box: tuple[int, int]) -> tuple[int, int]:
    """Time scale and duration of an mvhd or mdhd box."""
    if data[box[0]] == 1:
        return struct.unpack_from(">IQ", data, box[0] + 20)
    return struct.unpack_from(">II", data, box[0] + 12)


def _hidden_by_edit_list(moov: bytes, count: int) -> int:
    """Upper bound on the frames that an edit list keeps in the file but out of the film (a clip cut without coding)."""
    track = _video_track(moov)
    movie = _find(moov, b"mvhd", 0, len(moov))
    if track is None or movie is None:
        return count
    media, edits = _find(moov, b"mdia/mdhd", *track), _find(moov, b"edts/elst", *track)
    if media is None or edits is None:
        return 0
    movie_scale, _ = _clock(moov, movie)
    scale, duration = _clock(moov, media)
    layout = ">Qqi" if moov[edits[0]] == 1 else ">Iii"
    number = int.from_bytes(moov[edits[0] + 4 : edits[0] + 8], "big")
    entries = list(struct.iter_unpack(layout, moov[edits[0] + 8 : edits[0] + 8 + number * struct.calcsize(layout)]))
    shown_s = sum(length for length, begin, _ in entries if begin >= 0) / max(1, movie_scale)
    media_s = duration / max(1, scale)
    hidden = (media_s - shown_s) / max(media_s, 1e-9) * count
    return 0 if hidden < 0.5 else min(count, math.ceil(hidden) + 1)


def _set_mp4_rate(file: BinaryIO, size: int, rate: Fraction, frames: int) -> None:
    boxes = list(_boxes(file, 0, size))
    read = _read_moov(file, boxes)
    if read is None:
        return
    moov = bytearray(read)
    track, movie = _video_track(moov), _find(moov, b"mvhd", 0, len(moov))
    if track is None or movie is None:
        return
    media, header = _find(moov, b"mdia/mdhd", *track), _find(moov, b"tkhd", *track)
    times, edits = _find(moov, b"mdia/minf/stbl/stts", *track), _find(moov, b"edts/elst", *track)
    if media is None or header is None or times is None or _find(moov, b"mdia/minf/stbl/ctts", *track) is not None:
        return
    number, entry_frames, step = struct.unpack_from(">III", moov, times[0] + 4)
    versions = [moov[box[0]] for box in (movie, media, header, *([edits] if edits else []))]
    if number != 1 or entry_frames != frames or any(versions):
        return
    scale, _ = _clock(moov, media)
    if Fraction(scale, step) == rate:
        return
    movie_scale, _ = _clock(moov, movie)
    # Rounded up, because a reader drops frames that begin after the edit list's end.
    shown = math.ceil(frames / rate * movie_scale)
    struct.pack_into(">II", moov, media[0] + 12, rate.numerator, frames * rate.denominator)
    struct.pack_into(">I", moov, times[0] + 12, rate.denominator)
    struct.pack_into(">I", moov, movie[0] + 16, shown)
    struct.pack_into(">I", moov, header[0] + 20, shown)
    if edits is not None and moov[edits[0] + 4 : edits[0] + 8] == b"\0\0\0\1":
        struct.pack_into(">I", moov, edits[0] + 8, shown)
    file.seek(next(start for kind, start, _ in boxes if kind == b"moov"))
    file.write(moov)


def _set_avi_rate(file: BinaryIO, rate: Fraction) -> None:
    file.seek(0)
    head = file.read(4096)
    stream = head.find(b"strh")
    if stream < 0 or head[stream + 8 : stream + 12] != b"vids":
        return
    file.seek(stream + 8 + 20)
    file.write(struct.pack("<II", rate.denominator, rate.numerator))
    if (main := head.find(b"avih")) >= 0:
        file.seek(main + 8)
        file.write(struct.pack("<I", round(1_000_000 / rate)))


def _set_matroska_rate(file: BinaryIO, rate: Fraction) -> None:
    """DefaultDuration: nanoseconds a frame."""
    file.seek(0)
    head = file.read(65536)
    head = head[: head.find(b"\x1f\x43\xb6\x75")]  # the first cluster ends the header
    if head.count(b"\x23\xe3\x83") != 1:
        return
    field = head.find(b"\x23\xe3\x83") + 3
    width = head[field] & 0x7F if head[field] & 0x80 else 0
    value = round(1_000_000_000 / rate)
    if not 0 < width <= 8 or value >= 1 << 8 * width:
        return
    file.seek(field + 1)
    file.write(value.to_bytes(width, "big"))


def _segment_end(file: BinaryIO) -> int:
    """Where Matroska's segment ends; 0 if it was written live, without a length."""
    file.seek(4)
    header = _vint(file)
    if header is None:
        return 0
    file.seek(header, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length = _vint(file)
    return 0 if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """EBML's number of varying width; None if it is cut or means "unknown"."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    rest = file.read(width - 1)
    value = int.from_bytes(first + rest, "big") & ((1 << 7 * width) - 1)
    return None if len(rest) < width - 1 or value == (1 << 7 * width) - 1 else value


def _riff_end(file: BinaryIO, size: int) -> int:
    """Where the last RIFF chunk ends: AVI above 1 GB is a row of them."""
    start = 0
    while start + 8 <= size:
        file.seek(start)
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind != b"RIFF" or length in (0, 0xFFFFFFFF):  # not closed by its writer
            break
        start += 8 + length + length % 2
    return start
