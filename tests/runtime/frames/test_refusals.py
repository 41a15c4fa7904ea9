"""Paths, addresses and targets that cannot be used: one sentence each, no traceback, no secret told."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from immunecam.errors import InputError, UsageError
from immunecam.runtime.frames import FrameSink, FrameSource, LiveSource
from immunecam.runtime.frames.live import without_secrets
from immunecam.runtime.frames.sink import FolderSink, PictureSink, VideoSink

PICTURE = np.random.default_rng(0).integers(0, 256, (48, 64, 3)).astype(np.uint8)


def still(folder: Path) -> FrameSource:
    cv2.imwrite(str(folder / "in.png"), PICTURE)
    return FrameSource.open(folder / "in.png")


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("x" * 300, "cannot be read"),
        ("a\0b", "does not exist"),
        (os.devnull, "device or pipe"),
        ("none/in.mp4", "exist"),
    ],
)
def test_paths(spec, words):
    with pytest.raises(InputError, match=words):
        FrameSource.open(spec)


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    with pytest.raises(InputError, match="device or pipe"):
        FrameSource.open(tmp_path / "pipe.mp4")


def test_without_rights(tmp_path):
    """In a child, because root must first become nobody."""
    (tmp_path / "in.mp4").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    code = f"""
import os
from immunecam.errors import InputError
from immunecam.runtime.frames import FrameSource
from immunecam.runtime.frames.sink import FolderSink
if os.geteuid() == 0:
    os.chmod({str(tmp_path)!r}, 0o755)
    os.chmod({str(tmp_path.parent)!r}, 0o755)
    os.chmod({str(tmp_path.parent.parent)!r}, 0o755)
    os.chmod({str(tmp_path / "in.mp4")!r}, 0)
    os.chmod({str(tmp_path / "folder")!r}, 0o444)
    os.seteuid(65534)
else:
    os.chmod({str(tmp_path / "in.mp4")!r}, 0)
    os.chmod({str(tmp_path / "folder")!r}, 0)
for name in ("in.mp4", "folder"):
    try:
        FrameSource.open(os.path.join({str(tmp_path)!r}, name))
    except InputError as error:
        print("refused:", error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.count("refused:") == 2, done
    assert done.stderr == ""


def test_a_png_with_a_changed_byte(tmp_path, capfd):
    still(tmp_path)
    data = bytearray((tmp_path / "in.png").read_bytes())
    data[len(data) // 2] ^= 0x55
    (tmp_path / "in.png").write_bytes(data)
    with pytest.raises(InputError, match="cut short or damaged"):
        FrameSource.open(tmp_path / "in.png")
    assert capfd.readouterr().err == ""


def test_a_picture_of_ten_gigapixels(tmp_path):
    still(tmp_path)
    data = (tmp_path / "in.png").read_bytes()
    head = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    data = data[:8] + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    (tmp_path / "in.png").write_bytes(data)
    with pytest.raises(InputError, match="not a picture that can be decoded"):
        FrameSource.open(tmp_path / "in.png")


@pytest.mark.parametrize("name", ["", "picture.png", "video.mp4"])
def test_a_folder_stands_where_the_file_should(tmp_path, name):
    source = still(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / (name or "x.png")).mkdir()
    target = tmp_path / "out" / (name or ".")
    with pytest.raises(UsageError, match="is a folder"):
        FrameSink.open(target, source)


def test_a_target_that_became_a_folder_meanwhile(tmp_path):
    with pytest.raises(InputError, match="put in place"), PictureSink(tmp_path / "out.png") as sink:
        sink.write(PICTURE)
        (tmp_path / "out.png").mkdir()
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


def test_names_of_the_greatest_length(tmp_path):
    longest = tmp_path / ("y" * 251 + ".png")
    with FrameSink.open(longest, still(tmp_path)) as sink:
        sink.write(PICTURE)
    assert longest.is_file()
    with pytest.raises(InputError, match="cannot be used"):
        FrameSink.open(tmp_path / ("y" * 252 + ".png"), still(tmp_path))


def test_nothing_written_is_no_success(tmp_path):
    with pytest.raises(InputError, match="no frame came"), VideoSink(tmp_path / "o.mp4", fps=25, width=64, height=48):
        pass
    with pytest.raises(InputError, match="no picture came"), PictureSink(tmp_path / "o.png"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_keeps_what_is_in_it(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    with FolderSink(tmp_path / "out") as sink:
        sink.write(PICTURE, "a.png")
    with pytest.raises(KeyboardInterrupt), FolderSink(tmp_path / "out") as sink:
        sink.write(PICTURE, "b.png")
        raise KeyboardInterrupt
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["a.png", "mine.txt"]
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounting a small disk needs root")
@pytest.mark.parametrize("kib", [300, 2048])
def test_a_disk_that_is_really_full(tmp_path, kib):
    """Smaller than the room that is kept free: refused at the first frame. Larger: it fills up under way."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount is not permitted here: {mounted.stderr.decode().strip()}")
    try:
        noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3)).astype(np.uint8)
        sink = VideoSink(disk / "out.avi", fps=25, width=320, height=240)
        with pytest.raises(InputError, match="disk is full"), sink:
            for index in range(200):
                sink.write(np.roll(noise, index, 1))
        assert sink.frames < 200
        assert list(disk.iterdir()) == []
        (disk / "fill").write_bytes(bytes((kib << 10) - 16384))
        with pytest.raises(InputError, match="No space left"), PictureSink(disk / "out.png") as picture:
            picture.write(noise)
        assert [p.name for p in disk.iterdir()] == ["fill"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://user:pass@host:554/live?key=1", "rtsp://host:554/live"),
        ("http://host/a.mjpg", "http://host/a.mjpg"),
        ("http://a@b:c@host/x#f", "http://host/x"),
        ("http://u:p@[bad", "http://"),
    ],
)
def test_secrets_of_an_address_are_not_told(url, shown):
    assert without_secrets(url) == shown


def test_errors_and_logs_tell_no_secret(capfd):
    for url in ("rtsp://user:secret@127.0.0.1:1/x?token=secret", "http://user:secret@[bad", "ftp://user:secret@host/x"):
        with pytest.raises(InputError) as caught:
            FrameSource.open(url)
        assert "secret" not in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("options", [{"timeout_s": 0.0}, {"give_up_s": float("nan")}])
def test_times_of_a_live_source(options):
    with pytest.raises(UsageError, match="above 0"):
        LiveSource("http://127.0.0.1:1/x", **options)


def test_a_server_that_says_nothing_is_given_up_in_time_and_in_silence(capfd):
    import socket
    import time

    with socket.create_server(("127.0.0.1", 0)) as server:
        began = time.monotonic()
        with pytest.raises(InputError, match=r"within 0\.5 s"):
            LiveSource(f"http://127.0.0.1:{server.getsockname()[1]}/x.mjpg", timeout_s=0.5)
        assert time.monotonic() - began < 2.5
    assert capfd.readouterr().err == ""
