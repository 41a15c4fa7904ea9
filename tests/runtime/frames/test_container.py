"""What a file's own structure says: a missing end, an exact count, an exact rate."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest

from immunecam.errors import InputError
from immunecam.runtime.frames import FrameSink, FrameSource
from immunecam.runtime.frames.container import expected_frames, looks_like_text, missing_bytes, set_rate
from immunecam.runtime.frames.sink import VIDEO_CODECS, VideoSink

COUNT = 60


def moving(index: int, size: tuple[int, int] = (120, 160)) -> np.ndarray:
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return np.roll(cv2.resize(image, size[::-1]), 2 * index, 1)


def write(path: Path, count: int = COUNT, fps: float = 25.0, size: tuple[int, int] = (120, 160)) -> Path:
    codec = cv2.VideoWriter.fourcc(*VIDEO_CODECS[path.suffix])
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, fps, size[::-1])
    for index in range(count):
        writer.write(moving(index, size))
    writer.release()
    return path


def read(path: Path) -> int:
    with FrameSource.open(path) as source:
        return len(list(source))


def boxes(data: bytes) -> dict[bytes, bytes]:
    found, start = {}, 0
    while start < len(data):
        length, kind = struct.unpack(">I4s", data[start : start + 8])
        found[kind] = data[start : start + length]
        start += length
    return found


def faststart(data: bytes) -> bytes:
    """The same MP4 with its index in front, as files for the web have it: it opens however much of its end is lost."""
    part = boxes(data)
    moov = bytearray(part[b"moov"])
    table = moov.find(b"stco") + 8
    for entry in range(struct.unpack_from(">I", moov, table)[0]):
        (offset,) = struct.unpack_from(">I", moov, table + 4 + 4 * entry)
        struct.pack_into(">I", moov, table + 4 + 4 * entry, offset + len(moov))
    return part[b"ftyp"] + bytes(moov) + part[b"free"] + part[b"mdat"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    made = {suffix: write(folder / f"in{suffix}").read_bytes() for suffix in (".mp4", ".mkv", ".avi")}
    return made | {".fast.mp4": faststart(made[".mp4"])}


@pytest.mark.parametrize("kind", [".mp4", ".mkv", ".avi", ".fast.mp4"])
def test_a_whole_file_lacks_nothing(tmp_path, whole, kind):
    path = tmp_path / f"in{kind}"
    path.write_bytes(whole[kind])
    assert missing_bytes(path) == 0
    assert read(path) == COUNT


@pytest.mark.parametrize("kind", [".mkv", ".avi", ".fast.mp4"])
@pytest.mark.parametrize("lost", [0.03, 0.5])
def test_a_lost_end_is_known_to_the_byte(tmp_path, whole, kind, lost):
    data = whole[kind]
    path = tmp_path / f"in{kind}"
    path.write_bytes(data[: int(len(data) * (1 - lost))])
    missing = len(data) - path.stat().st_size
    assert missing_bytes(path) == missing
    with pytest.raises(InputError, match=rf"cut short: \d+ .*{missing} bytes"):
        read(path)


@pytest.mark.parametrize(("lost", "came"), [(20, "60"), (300, r"5\d")])
def test_a_lost_part_of_the_last_frame_is_known(tmp_path, whole, lost, came):
    """Of a frame cut in part the decoder makes up the rest, so all frames may seem to be there."""
    path = tmp_path / "in.mp4"
    path.write_bytes(whole[".fast.mp4"][:-lost])
    with pytest.raises(InputError, match=f"{came} of {COUNT} frames could be decoded, and {lost} bytes"):
        read(path)


def test_a_hole_in_the_middle_is_known(tmp_path, whole):
    data = bytearray(whole[".fast.mp4"])
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    (tmp_path / "in.mp4").write_bytes(data)
    with pytest.raises(InputError, match="damaged"):
        read(tmp_path / "in.mp4")


def test_frames_hidden_by_an_edit_list_are_not_missed(tmp_path, whole):
    """A clip cut without coding keeps the frames before and after the cut, and says which part is to be shown."""
    data = bytearray(whole[".mp4"])
    entry = data.find(b"elst") + 12
    scale = struct.unpack_from(">I", data, data.find(b"mdhd") + 16)[0]
    struct.pack_into(">Ii", data, entry, 1000, 13 * scale // 25)  # one second, from frame 13
    path = tmp_path / "in.mp4"
    path.write_bytes(data)
    least, most = expected_frames(path, COUNT)
    shown = read(path)
    assert least <= shown <= most == COUNT
    assert 24 <= shown < COUNT
    assert least >= 23


def test_an_estimated_count_proves_nothing(tmp_path, whole):
    path = tmp_path / "in.mkv"
    path.write_bytes(whole[".mkv"])
    assert expected_frames(path, 10_000) is None
    live = bytearray(whole[".mkv"])  # a segment of unknown length, as a recorder writes that cannot go back
    live[live.find(b"\x18\x53\x80\x67") + 4 :][:8] = b""
    at = live.find(b"\x18\x53\x80\x67") + 4
    live[at : at + 8] = b"\x01" + b"\xff" * 7
    path.write_bytes(live)
    assert missing_bytes(path) == 0


@pytest.mark.parametrize(
    "data", [b"", b"\0" * 40, b"RIFF", b"\x1a\x45\xdf\xa3", b"\0\0\0\x01ftyp\0\0", b"\0\0\0\x03ftyp" * 3]
)
def test_stubs_say_nothing(tmp_path, data):
    path = tmp_path / "in"
    path.write_bytes(data)
    assert missing_bytes(path) == 0
    set_rate(path, 25.0, 5)
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"plain\n" * 100, True),
        ("Grüße\n".encode() * 999, True),
        (b"#EXTM3U\nfile:///etc/passwd\n", True),
        (b"\0\0\0\x20ftypisom", False),
        (b"YUV4MPEG2 W4 H4 F25:1\nFRAME\n" + b"PPPP" * 6, False),
        (bytes(range(128, 256)) * 40, False),
        (b"", False),
    ],
)
def test_text_is_no_film(tmp_path, data, text):
    path = tmp_path / "in.txt"
    path.write_bytes(data)
    assert looks_like_text(path) is text
    if text:
        with pytest.raises(InputError, match="not a video but text"):
            FrameSource.open(path)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".avi"])
@pytest.mark.parametrize("fps", [24000 / 1001, 30000 / 1001, 29.87654321, 25.0, 1000 / 33, 5.0, 120.0])
def test_the_rate_survives_exactly(tmp_path, suffix, fps):
    path = tmp_path / f"out{suffix}"
    with VideoSink(path, fps=fps, width=64, height=48) as sink:
        for index in range(7):
            sink.write(moving(index, (48, 64)))
    with FrameSource.open(path) as source:
        assert source.fps == pytest.approx(fps, rel=1e-9)
        times = [frame.timestamp_s for frame in source]
    assert len(times) == 7
    assert times[-1] == pytest.approx(6 / fps, abs=2e-3)  # Matroska counts in milliseconds


@pytest.mark.parametrize("fps", [0.2, 240.5])
def test_an_unusual_rate_survives_in_mp4(tmp_path, fps):
    with VideoSink(tmp_path / "out.mp4", fps=fps, width=64, height=48) as sink:
        for index in range(7):
            sink.write(moving(index, (48, 64)))
    with FrameSource.open(tmp_path / "out.mp4") as source:
        assert (source.fps, len(list(source))) == (pytest.approx(fps, rel=1e-9), 7)


def test_the_rate_survives_in_an_odd_avi(tmp_path):
    with VideoSink(tmp_path / "out.avi", fps=24000 / 1001, width=161, height=121) as sink:
        for index in range(5):
            sink.write(moving(index, (121, 161)))
    with FrameSource.open(tmp_path / "out.avi") as source:
        assert (source.width, source.height, source.fps) == (161, 121, pytest.approx(24000 / 1001, rel=1e-9))
        assert len(list(source)) == 5


def test_a_slower_rate_keeps_the_last_frame_of_a_long_video(tmp_path):
    """At three decimals this rate is too fast, and an edit list of that length would hide the last frames."""
    count, fps = 3000, 10.99951
    path = tmp_path / "out.mp4"
    with VideoSink(path, fps=fps, width=16, height=16) as sink:
        for _ in range(count):
            sink.write(np.zeros((16, 16, 3), np.uint8))
    with FrameSource.open(path) as source:
        assert source.fps == pytest.approx(fps, rel=1e-9)
        last = list(source)[-1]
    assert last.index == count - 1
    assert math.isclose(last.timestamp_s, (count - 1) / fps, rel_tol=1e-6)


@pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
def test_real_clips_are_copied_frame_for_frame(shared_data, tmp_path, suffix):
    clip = shared_data / "video" / "small_faces_5frames.mp4"
    if not clip.is_file():
        pytest.skip(f"needs {clip}")
    with FrameSource.open(clip) as source, FrameSink.open(tmp_path / f"out{suffix}", source) as sink:
        for frame in source:
            sink.write(frame.image, frame.name)
        given = (source.frame_count, source.width, source.height, source.fps)
    assert given == (5, 820, 460, 24000 / 1001)
    with FrameSource.open(tmp_path / f"out{suffix}") as copy:
        assert (copy.frame_count, copy.width, copy.height) == given[:3]
        assert copy.fps == pytest.approx(given[3], rel=1e-9)
        assert len(list(copy)) == 5
