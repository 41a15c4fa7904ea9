"""Sources that fail: an RTSP server that is stopped, frozen and restarted, cameras that send what they should not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import pytest
from cameras import HttpCamera, RtspCamera, picture

from immunecam.errors import InputError, UsageError
from immunecam.runtime.frames import FrameSource, LiveSource, SourceState

_LONG = 20.0  # for what happens within a second unless the machine is busy


@pytest.fixture
def http_camera() -> Iterator[HttpCamera]:
    camera = HttpCamera()
    yield camera
    if camera.running:
        camera.stop()


@pytest.fixture
def rtsp_camera(tmp_path) -> Iterator[RtspCamera]:
    camera = RtspCamera(tmp_path)
    camera.start()
    yield camera
    camera.kill()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + _LONG
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def threads() -> int:
    """Of the whole process, FFmpeg's and OpenCV's among them."""
    return len(os.listdir("/proc/self/task"))


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_twenty_failures_of_an_rtsp_camera_leave_nothing_behind(rtsp_camera, monkeypatch):
    monkeypatch.setenv("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_transport;tcp|fpsprobesize;0")  # connects sooner
    with LiveSource(rtsp_camera.url, timeout_s=1.0, stall_s=0.3, give_up_s=None, longest_wait_s=0.3) as source:
        before = None
        for cycle in range(20):
            until(lambda: source.read(0.1) is not None)
            if cycle == 2:  # what FFmpeg and OpenCV keep for good is there by now
                before = threads(), descriptors()
            if cycle % 4 == 3:
                rtsp_camera.signal(signal.SIGSTOP)
                until(lambda: source.status.state is SourceState.STALLED)
                until(lambda: source.status.state is SourceState.RECONNECTING)
                assert "no frame for" in source.status.why
                rtsp_camera.signal(signal.SIGCONT)
            else:
                rtsp_camera.kill()
                until(lambda: source.status.state is SourceState.RECONNECTING)
                rtsp_camera.start()
            source.read(0.0)  # nothing from before
        until(lambda: source.read(0.1) is not None)
        assert source.status.reconnections == 20
        assert (threads(), descriptors()) == before
    until(lambda: not any(t.name == f"reader {source.name}" for t in threading.enumerate()))
    assert source.status.state is SourceState.ENDED
    assert threads() < before[0]
    assert descriptors() < before[1]


def test_camera_that_comes_back_with_another_codec_and_size(rtsp_camera):
    with FrameSource.open(rtsp_camera.url, timeout_s=2.0) as source:
        assert (source.width, source.height) == (128, 96)
        rtsp_camera.kill()
        rtsp_camera.start((120, 160), "jpeg")
        until(lambda: (frame := source.read(0.1)) is not None and frame.image.shape == (120, 160, 3))
        status = source.status
        assert (status.width, status.height, status.size_changes, status.reconnections) == (160, 120, 1, 1)
        assert status.frames > 1
        assert status.to_dict()["state"] == "connected"


@pytest.mark.parametrize("size", [(96, 80), (24, 40)])
def test_size_that_changes_while_connected_is_scaled_to_the_first(http_camera, size):
    with FrameSource.open(http_camera.url, timeout_s=2.0) as source:
        until(lambda: source.status.frames > 3)
        http_camera.size = size
        start = source.status.frames
        until(lambda: source.status.frames > start + 30)
        image = source.read(_LONG).image
        assert image.shape == (48, 64, 3)
        corner, rest = image[6:18, 8:24].astype(int), image[30:42, 40:56].astype(int)
        assert abs(corner - (10, 200, 90)).max() < 30
        assert np.ptp(rest, axis=2).max() < 12  # grey
        assert source.status.state is SourceState.CONNECTED


def test_damaged_pictures_between_whole_ones(http_camera):
    http_camera.spoil = 3
    with FrameSource.open(http_camera.url, timeout_s=2.0, give_up_s=None) as source:
        whole = 0
        deadline = time.monotonic() + _LONG
        while whole < 20:
            assert time.monotonic() < deadline
            frame = source.read(0.5)
            if frame is not None:
                assert frame.image.shape == (48, 64, 3)
                corner = frame.image[8:16, 8:16].astype(int).mean((0, 1))
                whole += bool(abs(corner - (10, 200, 90)).max() < 12)


def test_silent_stream_is_stalled_then_lost_and_closing_does_not_wait_for_it(http_camera):
    with FrameSource.open(http_camera.url, timeout_s=3.0, stall_s=0.2, give_up_s=None) as source:
        assert source.read(_LONG) is not None
        http_camera.silent = True
        until(lambda: source.status.state is SourceState.STALLED)
        until(lambda: source.status.age_s > 0.3)
        source.read(0.0)
        began = time.monotonic()
        assert source.read(0.2) is None
        assert 0.15 < time.monotonic() - began < 1.0
        began = time.monotonic()
    assert time.monotonic() - began < 1.5
    assert source.read(1.0) is None
    assert list(source) == []
    http_camera.silent = False


def test_camera_that_is_not_there_yet(http_camera):
    http_camera.stop()
    with pytest.raises(InputError, match="refuses, or is not there"):
        FrameSource.open(http_camera.url, timeout_s=1.0)
    with FrameSource.open(http_camera.url, timeout_s=1.0, wait_for_it=True, give_up_s=None) as source:
        assert source.status.state is SourceState.RECONNECTING
        assert (source.width, source.height, source.status.age_s) == (0, 0, None)
        http_camera.start()
        assert source.read(_LONG) is not None
        assert (source.width, source.height) == (64, 48)
        assert source.status.reconnections == 0
        assert "connected for" in str(source.status)


def test_waits_grow_while_a_camera_keeps_restarting(http_camera, monkeypatch):
    waits: list[float] = []
    with FrameSource.open(http_camera.url, timeout_s=1.0, give_up_s=None) as source:
        real = source._stop.wait
        monkeypatch.setattr(source._stop, "wait", lambda seconds: waits.append(seconds) or real(min(seconds, 0.01)))
        http_camera.stop()
        until(lambda: len(waits) >= 12)
    for number, wait in enumerate(waits[:12]):
        middle = min(0.25 * 2**number, 5.0)
        assert 0.5 * middle <= wait <= 1.5 * middle
    assert len({wait / min(0.25 * 2**n, 5.0) for n, wait in enumerate(waits[:12])}) > 6


def test_file_is_played_at_its_own_rate(tmp_path):
    path = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 20.0, (64, 48))
    for number in range(6):
        writer.write(picture(30 * number))
    writer.release()
    began = time.monotonic()
    with FrameSource.open(path, live=True) as source:
        assert (source.live, source.kind, source.fps) == (True, "video", 20.0)
        seen = [frame.index for frame in source]
    assert 0.2 < time.monotonic() - began < _LONG
    assert seen == sorted(seen)
    assert seen[-1] == 5 - source.status.dropped or seen[-1] <= 5
    assert source.status.state is SourceState.ENDED
    with LiveSource(str(path), repeat=True, speed=5.0) as source:  # a string is no stream where it names a file
        assert (source.kind, source.name, source.fps) == ("video", str(path), 100.0)
        until(lambda: source.status.frames > 14)
        assert source.status.reconnections == 0
    path.unlink()
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be played live"):
        FrameSource.open(tmp_path / "a.png", live=True)


def test_process_with_a_silent_camera_ends_within_its_time_out(http_camera):
    program = f"""
import sys, time
from immunecam.runtime.frames import FrameSource
sources = [FrameSource.open({http_camera.url!r}, timeout_s=1.5) for _ in range(3)]
print("open", flush=True)
sys.stdin.readline()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"open\n"
    http_camera.silent = True
    time.sleep(0.2)
    began = time.monotonic()
    _, errors = process.communicate(b"\n", timeout=_LONG)
    assert process.returncode == 0
    assert errors == b""
    assert time.monotonic() - began < 6
    http_camera.silent = False


def test_digits_are_a_camera():
    with pytest.raises(InputError, match="the camera 77 does not open"):
        LiveSource("77", timeout_s=0.5)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"timeout_s": float("inf")},
        {"timeout_s": 1e9},
        {"stall_s": -1},
        {"give_up_s": float("nan")},
        {"longest_wait_s": 0},
        {"speed": 0},
    ],
)
def test_times_that_are_none(options):
    with pytest.raises(UsageError, match=next(iter(options))):
        LiveSource("http://127.0.0.1:1/x", **options)
