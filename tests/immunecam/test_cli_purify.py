"""``immunecam purify`` as a real process on real files."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from cameras import HttpCamera

from immunecam.commands.purify import _NEWEST, _Tally
from immunecam.runtime.bundle import default_bundle


def properties(path: Path) -> tuple[int, int, int, float]:
    """Frames that really decode, width, height, rate."""
    capture = cv2.VideoCapture(str(path))
    frames = 0
    while capture.grab():
        frames += 1
    size = int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
    return frames, *size, round(capture.get(cv2.CAP_PROP_FPS), 3)


def test_clip_keeps_frames_size_and_rate(run, clip, tmp_path):
    done = run("purify", clip, "-o", "out.mp4", "--json", "report.json", "--seed", "7")
    assert done.returncode == 0, done.stderr
    assert properties(tmp_path / "out.mp4") == properties(clip)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["schema"] == "immunecam.purify/1"
    assert report["seed"] == 7
    manifest = (default_bundle() / "manifest.json").read_bytes()
    assert report["bundle_sha256"] == hashlib.sha256(manifest).hexdigest()
    (row,) = report["rows"]
    assert row["frames"] == 6
    assert row["faces"] == 12  # three in each of four frames
    assert 0 < row["face_p50_ms"] <= row["face_p95_ms"] <= row["face_p99_ms"]
    assert {"machine", "versions"} <= report.keys()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "report.json"]


def test_picture_changes_only_around_faces_and_keeps_colour(run, sample_frame, tmp_path):
    cv2.imwrite(str(tmp_path / "in.png"), sample_frame)
    assert run("purify", "in.png", "-o", "out.png").returncode == 0
    out = cv2.imread(str(tmp_path / "out.png"))
    changed = (out != sample_frame).any(2)
    assert 0.02 < changed.mean() < 0.5
    assert not changed[:20].any()
    # A luminance is replaced, a chroma stays.
    before, after = (cv2.cvtColor(x, cv2.COLOR_BGR2YCrCb).astype(int) for x in (sample_frame, out))
    chroma = np.abs(after - before)[..., 1:][changed]
    assert np.percentile(chroma, 95) <= 3
    assert run("purify", "in.png", "-o", "grey.png", "--colour", "grey").returncode == 0
    grey = cv2.imread(str(tmp_path / "grey.png"))
    assert not np.array_equal(grey, out)


def test_frame_without_faces_passes_unchanged(run, tmp_path):
    rng = np.random.default_rng(0)
    picture = cv2.GaussianBlur(rng.integers(0, 256, (240, 320, 3)).astype(np.uint8), (0, 0), 5)
    cv2.imwrite(str(tmp_path / "in.png"), picture)
    done = run("purify", "in.png", "-o", "out.png")
    assert done.returncode == 0
    assert "no face" in done.stdout
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / "out.png")), picture)


def test_seed_repeats_and_modes_differ(run, sample_frame, tmp_path):
    cv2.imwrite(str(tmp_path / "in.png"), sample_frame)
    made = {}
    for name, arguments in {
        "a": ("--seed", "1"),
        "b": ("--seed", "1"),
        "c": ("--seed", "2"),
        "expected": ("--mutation", "expected"),
    }.items():
        assert run("purify", "in.png", "-o", f"{name}.png", *arguments).returncode == 0
        made[name] = (tmp_path / f"{name}.png").read_bytes()
    assert made["a"] == made["b"]
    assert len(set(made.values())) == 3


def test_folder_and_side_by_side(run, sample_frame, clip, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("2.png", "10.jpg"):
        cv2.imwrite(str(tmp_path / "in" / name), sample_frame)
    assert run("purify", "in", "-o", "out").returncode == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["10.jpg", "2.png"]
    done = run("purify", clip, "-o", "both.mp4", "--side-by-side", "--limit", "2")
    assert done.returncode == 0
    frames, width, height, _ = properties(tmp_path / "both.mp4")
    assert (frames, width, height) == (2, 2 * sample_frame.shape[1], sample_frame.shape[0])


def test_several_sources_get_their_own_files(run, clip, tmp_path):
    other = tmp_path / "other.mp4"
    shutil.copy(clip, other)
    assert run("purify", clip, other, "-o", "out.mp4", "--limit", "1").returncode == 0
    assert sorted(p.name for p in tmp_path.glob("out*")) == ["out-made.mp4", "out-other.mp4"]


def test_every_shared_clip(run, shared_data, tmp_path):
    for source in sorted((shared_data / "video").glob("*.mp4")):
        # Frames of the long clip are enough to see that it works; its whole length is the closing note's affair.
        limit = () if source.stat().st_size < 1 << 20 else ("--limit", "12")
        done = run("purify", source, "-o", "out.mp4", *limit)
        assert done.returncode == 0, done.stderr
        wanted, found = properties(source), properties(tmp_path / "out.mp4")
        assert found[1:] == wanted[1:]
        assert found[0] == (12 if limit else wanted[0])


@pytest.fixture
def bad(tmp_path, clip, sample_frame):
    """Files that cannot be used."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "zero.mp4").touch()
    (tmp_path / "text.mp4").write_text("this is no video\n" * 99)
    (tmp_path / "text.jpg").write_text("this is no picture\n" * 99)
    data = clip.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    jpeg = cv2.imencode(".jpg", sample_frame)[1].tobytes()
    (tmp_path / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    bundle = tmp_path / "changed.immune"
    shutil.copytree(default_bundle(), bundle)
    weights = bytearray((bundle / "subspace.safetensors").read_bytes())
    weights[-1] ^= 1
    (bundle / "subspace.safetensors").write_bytes(weights)
    short = tmp_path / "short.immune"
    shutil.copytree(default_bundle(), short)
    (short / "analyzer.onnx").unlink()
    future = tmp_path / "future.immune"
    shutil.copytree(default_bundle(), future)
    manifest = json.loads((future / "manifest.json").read_text())
    (future / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    cv2.imwrite(str(tmp_path / "good.png"), sample_frame)
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing.mp4",), 3, "does not exist"),
        (("zero.mp4",), 3, "zero bytes"),
        (("text.mp4",), 3, "not a video"),
        (("text.jpg",), 3, "not a picture"),
        (("cut.mp4",), 3, "cut short"),
        (("cut.jpg",), 3, "cut short"),
        (("empty",), 3, "holds no picture"),
        (("97",), 3, "camera 97"),
        (("ftp://host/clip",), 3, "rtsp://"),
        (("good.png", "--bundle", "changed.immune"), 3, "subspace.safetensors"),
        (("good.png", "--bundle", "short.immune"), 3, "analyzer.onnx"),
        (("good.png", "--bundle", "future.immune"), 3, "99"),
        (("good.png", "--bundle", "empty"), 3, "manifest"),
        (("good.png", "--finder", "text.jpg"), 3, "YuNet"),
        (("good.png", "--finder", "nothing.onnx"), 3, "does not exist"),
        (("good.png", "-o", "nowhere/out.png"), 3, "nowhere"),
        (("good.png", "-o", "out.mp4"), 2, ".png"),
        (("good.png", "-o", "good.png"), 2, "itself"),
        (("good.png", "--seed", "-1"), 2, "seed"),
        (("good.png", "--mutation", "often"), 2, "often"),
        (("good.png", "--no-such-option"), 2, "no-such-option"),
        (("good.png", "--provider", "tensorrt"), 4, "TensorRT"),
        (("good.png", "--provider", "cuda"), 4, "CUDA"),
    ],
)
def test_bad_input_is_one_sentence(run, bad, arguments, code, words):
    before = {path: path.stat().st_mtime_ns for path in bad.rglob("*")}
    out = () if "-o" in arguments else ("-o", "out" + (Path(arguments[0]).suffix or ".mp4"))
    if arguments[0] == "empty":
        out = ("-o", "out")
    done = run("purify", *arguments, *out)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert {path: path.stat().st_mtime_ns for path in bad.rglob("*")} == before


def test_disk_full_leaves_nothing(clip, tmp_path):
    # A limit on the size of files stands for a full disk: the kernel refuses the write in the same place.
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000));"
        "from immunecam.cli import main; main(sys.argv[1:])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "purify", str(clip), "-o", "out.mp4"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 3, done.stderr
    assert "could not be written whole" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_interrupt_keeps_what_was_there(clip, tmp_path):
    (tmp_path / "out.mp4").write_bytes(b"an earlier result")
    (tmp_path / "in").mkdir()
    long = tmp_path / "in" / "long.mp4"
    capture = cv2.VideoCapture(str(clip))
    _, image = capture.read()
    writer = cv2.VideoWriter(str(long), cv2.VideoWriter.fourcc(*"mp4v"), 25, image.shape[1::-1])
    for _ in range(400):
        writer.write(image)
    writer.release()
    process = subprocess.Popen(
        [sys.executable, "-m", "immunecam", "purify", str(long), "-o", "out.mp4"],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out*partial*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.mp4"]
    assert (tmp_path / "out.mp4").read_bytes() == b"an earlier result"


@pytest.fixture
def camera(sample_frame):
    made = HttpCamera(sample_frame, rate=20)
    yield made
    made.stop()


def recording(camera, folder, *options):
    """A process that writes the camera's frames into out.mp4, once it has begun to."""
    process = subprocess.Popen(
        [sys.executable, "-m", "immunecam", "purify", camera.url, "-o", "out.mp4", *options],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(folder.glob(".out*partial*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(2)
    return process


def test_interrupt_finishes_the_recording_of_a_camera(camera, sample_frame, tmp_path):
    process = recording(camera, tmp_path, "--json", "out.json")
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    frames, width, height, _ = properties(tmp_path / "out.mp4")
    assert frames >= 1
    assert (height, width) == sample_frame.shape[:2]
    assert output.startswith(f"{frames} frames, ")
    live = json.loads((tmp_path / "out.json").read_text())["rows"][0]["live"]
    assert (live["state"], live["width"], live["height"]) == ("connected", width, height)
    assert live["frames"] >= frames + live["dropped"]
    row = json.loads((tmp_path / "out.json").read_text())["rows"][0]
    assert 0 < row["age_p50_ms"] <= row["age_p95_ms"] < 10_000
    assert f"{row['age_p95_ms']:.0f} ms old when done (p95)" in output
    assert 1 <= row["searches"] <= frames


def test_camera_that_comes_back_in_another_size_leaves_its_recording(camera, sample_frame, tmp_path):
    process = recording(camera, tmp_path)
    camera.stop()
    camera.image = cv2.resize(sample_frame, (160, 120))
    camera.start()
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 3
    frames, width, height, _ = properties(tmp_path / "out.mp4")
    assert f"changed its size from {width}x{height} to 160x120 after {frames} frames" in " ".join(errors.split())
    assert output == ""


def test_an_analysis_is_shared_by_the_frames_of_a_followed_face(run, sample_clip, tmp_path):
    done = run("purify", sample_clip, "--limit", "16", "--follow", "--share-analysis", "--json", tmp_path / "r.json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "r.json").read_text())["rows"]
    assert (row["faces"], row["shared"]) == (48, 45)
    done = run("purify", sample_clip, "--share-analysis")
    assert done.returncode == 2
    assert "--follow" in done.stderr


def test_following_finds_the_same_faces_with_few_searches(run, sample_clip, tmp_path):
    rows = {}
    for option in ("--no-follow", "--follow"):
        done = run("purify", sample_clip, "-o", f"x{option}.mp4", "--json", "out.json", "--limit", "16", option)
        assert done.returncode == 0, done.stderr
        (rows[option],) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert rows["--follow"]["faces"] == rows["--no-follow"]["faces"] == 48
    assert "searches" not in rows["--no-follow"]
    assert rows["--follow"]["searches"] == 5  # frames 0, 1, 3, 7 and 15


def test_a_clip_can_be_played_as_a_camera(run, sample_clip, tmp_path):
    done = run("purify", sample_clip, "--live", "--json", "out.json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert row["live"]["state"] == "ended"
    assert row["frames"] + row["live"]["dropped"] == row["live"]["frames"] == properties(sample_clip)[0]
    assert "ms old when done (p95)" in done.stdout
    (tmp_path / "pictures").mkdir()
    cv2.imwrite(str(tmp_path / "pictures" / "a.png"), np.zeros((64, 64, 3), np.uint8))
    refused = run("purify", "pictures", "--live")
    assert refused.returncode == 3
    assert "cannot be played live" in " ".join(refused.stderr.split())


def test_a_clip_of_one_frame_whose_name_looks_like_markup(run, sample_frame, tmp_path):
    height, width = sample_frame.shape[:2]
    writer = cv2.VideoWriter(str(tmp_path / "[b].avi"), cv2.VideoWriter_fourcc(*"MJPG"), 25, (width, height))
    writer.write(sample_frame)
    writer.release()
    for more in ((), ("--live", "--share-analysis")):
        done = run("purify", "[b].avi", "-o", "[red]out.avi", *more)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("1 frames, 3 faces")
        assert done.stdout.rstrip().endswith("wrote [red]out.avi")
        assert properties(tmp_path / "[red]out.avi")[:3] == (1, width, height)


def test_more_threads_than_cores_are_warned_of_and_work(run, sample_frame, tmp_path):
    cv2.imwrite(str(tmp_path / "in.png"), sample_frame)
    most = len(os.sched_getaffinity(0))
    for threads, warned in ((most + 1, True), (most, False)):
        done = run("purify", "in.png", "--threads", str(threads))
        assert done.returncode == 0, done.stderr
        assert (f"{threads} threads are asked for, but this process may use {most} cores" in done.stderr) == warned


def test_what_is_told_of_an_endless_source_does_not_fill_the_memory():
    tally = _Tally()
    for number in range(_NEWEST + 100):
        tally.add({"find": 1.0, "total": float(number)}, 1)
    assert tally.frames == tally.faces == _NEWEST + 100
    assert len(tally.stages_s["total"]) == len(tally.per_face_s) == _NEWEST
    assert min(tally.stages_s["total"]) == 0.1  # of the newest
