"""Sources and sinks on real files, a real HTTP camera, and a disk that really refuses to write."""

from __future__ import annotations

import subprocess
import sys
import threading
import time

import cv2
import numpy as np
import pytest
from cameras import HttpCamera, picture

from immunecam.errors import InputError, UsageError
from immunecam.runtime.frames import FrameSink, FrameSource, LiveSource
from immunecam.runtime.frames.picture import encode_picture
from immunecam.runtime.frames.sink import VideoSink


def write_video(path, count=9, fps=25.0, size=(48, 64), codec="mp4v"):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, size[::-1])
    for index in range(count):
        writer.write(picture(20 * index % 250, size))
    writer.release()
    return path


def test_video_source_and_sink(tmp_path):
    path = write_video(tmp_path / "in.mp4", fps=24000 / 1001)
    with FrameSource.open(path) as source:
        assert (source.kind, source.live, source.width, source.height, source.frame_count) == (
            "video",
            False,
            64,
            48,
            9,
        )
        with FrameSink.open(tmp_path / "out.mp4", source) as sink:
            frames = list(source)
            for frame in frames:
                sink.write(frame.image)
                assert not (tmp_path / "out.mp4").exists()
    assert [f.index for f in frames] == list(range(9))
    assert frames[4].timestamp_s == pytest.approx(4 * 1001 / 24000, abs=0.02)
    with FrameSource.open(tmp_path / "out.mp4") as copy:
        assert len(list(copy)) == 9
        assert copy.fps == pytest.approx(24000 / 1001, abs=1e-3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.mp4", "out.mp4"]


def test_folder_is_sorted_as_a_person_would(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a10.png", "a2.png", "A1.jpg"):
        cv2.imwrite(str(folder / name), picture())
    (folder / "notes.txt").write_text("no picture")
    source = FrameSource.open(folder)
    assert source.frame_count == 3
    with FrameSink.open(tmp_path / "out", source) as sink:
        for frame in source:
            sink.write(frame.image, frame.name)
    assert [f.name for f in source] == ["A1.jpg", "a2.png", "a10.png"]
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out" / "a2.png")), picture())


@pytest.mark.parametrize(
    "image",
    [
        np.full((20, 30), 77, np.uint8),
        np.full((20, 30), 77 * 257, np.uint16),
        np.dstack([np.full((20, 30, 3), 77, np.uint8), np.zeros((20, 30), np.uint8)]),
    ],
    ids=["grey", "16-bit", "alpha"],
)
def test_other_pictures_become_bgr(tmp_path, image):
    cv2.imwrite(str(tmp_path / "in.png"), image)
    (frame,) = FrameSource.open(tmp_path / "in.png")
    np.testing.assert_array_equal(frame.image, np.full((20, 30, 3), 77, np.uint8))


def jpeg_with_thumbnail() -> bytes:
    """A JPEG whose EXIF part holds a whole small JPEG, end marker included."""
    whole, thumbnail = encode_picture(picture(size=(200, 200)), ".jpg"), encode_picture(picture(), ".jpg")
    part = b"Exif\0\0" + thumbnail
    return whole[:2] + b"\xff\xe1" + (len(part) + 2).to_bytes(2, "big") + part + whole[2:]


def bad_files(folder):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (120, 160, 3)).astype(np.uint8)
    png, jpg = encode_picture(noise, ".png"), encode_picture(noise, ".jpg")
    avi = write_video(folder / "whole.avi", 60, codec="MJPG").read_bytes()
    mp4 = write_video(folder / "whole.mp4").read_bytes()
    thumb = jpeg_with_thumbnail()
    return {
        "zero.png": (b"", "zero bytes"),
        "zero.mp4": (b"", "zero bytes"),
        "text.png": (b"hello\n" * 50, "not a picture"),
        "text.mp4": (b"hello\n" * 50, "not a video"),
        "cut.png": (png[: len(png) // 2], "cut short"),
        "cut.jpg": (jpg[: len(jpg) // 2], "cut short"),
        "cut-thumbnail.jpg": (thumb[: len(thumb) - 300], "cut short"),
        "header.jpg": (jpg[:3], "cut short"),
        "cut.mp4": (mp4[: len(mp4) // 2], "cut short"),
        "cut.avi": (avi[: len(avi) // 2], "cut short"),
    }


BAD_PICTURES = ("zero.png", "text.png", "cut.png", "cut.jpg", "cut-thumbnail.jpg", "header.jpg")
BAD_VIDEOS = ("zero.mp4", "text.mp4", "cut.mp4", "cut.avi")


@pytest.mark.parametrize("name", [*BAD_PICTURES, *BAD_VIDEOS])
def test_bad_file_is_one_sentence(tmp_path, name):
    content, words = bad_files(tmp_path)[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=words) as caught, FrameSource.open(tmp_path / name) as source:
        list(source)
    assert "\n" not in str(caught.value)


def test_a_whole_jpeg_with_a_thumbnail_is_read(tmp_path):
    (tmp_path / "in.jpg").write_bytes(jpeg_with_thumbnail())
    assert FrameSource.open(tmp_path / "in.jpg").width == 200


def test_bad_sources(tmp_path):
    for spec, words in ((tmp_path / "none.mp4", "does not exist"), ("ftp://x/y", "rtsp://"), (tmp_path, "no picture")):
        with pytest.raises(InputError, match=words):
            FrameSource.open(spec)
    cv2.imwrite(str(tmp_path / "a.png"), picture())
    with pytest.raises(InputError, match="timeout_s"):
        FrameSource.open(tmp_path / "a.png", timeout_s=1.0)
    with pytest.raises(InputError, match="camera 99"):
        FrameSource.open("99")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_sink_keeps_the_old_file_when_interrupted(tmp_path, error):
    source = FrameSource.open(write_video(tmp_path / "in.mp4"))
    (tmp_path / "out.mp4").write_bytes(b"old")
    with pytest.raises(error), FrameSink.open(tmp_path / "out.mp4", source) as sink:
        sink.write(picture())
        raise error
    source.close()
    assert (tmp_path / "out.mp4").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2


def test_bad_sinks(tmp_path):
    video = FrameSource.open(write_video(tmp_path / "in.mp4"))
    cv2.imwrite(str(tmp_path / "in.png"), picture())
    still = FrameSource.open(tmp_path / "in.png")
    (tmp_path / "folder").mkdir()
    cv2.imwrite(str(tmp_path / "folder" / "in.png"), picture())
    folder = FrameSource.open(tmp_path / "folder")
    for name, source, kind, words in (
        ("in.mp4", video, UsageError, "itself"),
        ("out.xyz", video, UsageError, ".mp4"),
        ("out.mp4", still, UsageError, ".png"),
        ("out.png", folder, UsageError, "folder"),
        ("none/out.mp4", video, InputError, "does not exist"),
    ):
        with pytest.raises(kind, match=words):
            FrameSink.open(tmp_path / name, source)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        FrameSink.open(tmp_path / "file", folder)
    sink = FrameSink.open(tmp_path / "out.mp4", video)
    with pytest.raises(InputError, match="one size"), sink:
        sink.write(picture(size=(50, 64)))
    assert not (tmp_path / "out.mp4").exists()
    with pytest.raises(InputError, match="cannot be written as"):
        encode_picture(picture(), ".doc")


def test_odd_sizes(tmp_path):
    with pytest.raises(UsageError, match="even"):
        VideoSink(tmp_path / "out.mp4", fps=25, width=33, height=17)
    with VideoSink(tmp_path / "out.avi", fps=25, width=33, height=17) as sink:
        for _ in range(3):
            sink.write(picture(size=(17, 33)))
    with FrameSource.open(tmp_path / "out.avi") as source:
        assert (source.width, source.height, len(list(source))) == (33, 17, 3)
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["out.mp4", "out.avi", "out.png"])
def test_disk_full(tmp_path, name):
    code = f"""
import resource, signal, numpy as np
from pathlib import Path
from immunecam.errors import InputError
from immunecam.runtime.frames.sink import PictureSink, VideoSink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))
path = Path({str(tmp_path / name)!r})
noise = np.random.default_rng(0).integers(0, 256, (20, 120, 160, 3)).astype(np.uint8)
try:
    with (PictureSink(path) if path.suffix == ".png" else VideoSink(path, fps=25, width=160, height=120)) as sink:
        for image in noise:
            sink.write(image)
except InputError as error:
    print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("refused:"), done
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def camera():
    made = HttpCamera()
    yield made
    if made.running:
        made.stop()


def test_live_source_gives_the_newest_frame_and_comes_back(camera):
    before = set(threading.enumerate())
    with FrameSource.open(camera.url, timeout_s=2.0, give_up_s=20.0) as source:
        assert isinstance(source, LiveSource)
        assert source.live
        assert (source.kind, source.width, source.height) == ("stream", 64, 48)
        frames = iter(source)
        first = next(frames)
        time.sleep(0.6)  # a slow consumer
        seen = [next(frames).index for _ in range(3)]
        assert seen[0] > first.index + 5
        assert source.status.dropped > 5
        camera.stop()
        time.sleep(0.3)
        camera.start()
        deadline = time.monotonic() + 15
        while source.status.reconnections == 0 and time.monotonic() < deadline:
            time.sleep(0.1)
        assert source.status.reconnections == 1
        latest = [next(frames) for _ in range(3)]
        assert latest[-1].index > seen[-1]
        assert latest[-1].timestamp_s > first.timestamp_s
    left = [t for t in threading.enumerate() if t not in before and t.name.startswith("reader")]
    assert left == []
    assert list(frames) == []


def test_live_source_gives_up(camera):
    with LiveSource(camera.url, timeout_s=1.0, give_up_s=1.0) as source:
        frames = iter(source)
        next(frames)
        camera.stop()
        with pytest.raises(InputError, match="lost for 1 s"):
            list(frames)


def test_unreachable_stream_is_known_within_its_time(camera):
    camera.stop()
    began = time.monotonic()
    with pytest.raises(InputError, match="does not open"):
        FrameSource.open(camera.url, timeout_s=1.0)
    assert time.monotonic() - began < 5
